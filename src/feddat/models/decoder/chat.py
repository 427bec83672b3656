"""Format questions and answers for a decoder vision-language model with its chat template.

The template comes from the model folder. It is rendered for one user turn with a picture and a question. Rendering an
invented answer shows how an answer begins (with a space, on a new line) and which token ends it.

For a folder without a template, the prompt is ``PICTURE\\nQuestion: QUESTION\\nAnswer:`` and the answer `` ANSWER``,
followed by the tokenizer's end token. For PaliGemma they are ``PICTURE BOS QUESTION\\n`` and ``ANSWER``, as in its own
processor.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from feddat.models.base import ModelError
from feddat.models.folder import first_line

#: Maximum number of tokens of a question; longer ones are cut.
QUESTION_TOKENS = 256
# Words that no template contains, used to find where it puts question and answer.
_QUESTION, _ANSWER = "questionquestion", "answeranswer"


class Chat:
    """Prompts and answers in a model's own format, as token ids.

    Args:
        tokenizer: tokenizer of the model.
        image_token: text of the placeholder for a picture.
        template: chat template (Jinja); ``None`` if the folder has none.
        family: ``model_type`` of the model.
        folder: model folder, for messages.
        around: text that goes with a picture, before and after its placeholder.

    Attributes:
        image_id: id of the placeholder token; each prompt has it once.
        end: id of the token that ends an answer.
        adds_special: whether the tokenizer adds its special tokens to a prompt.

    Raises:
        ModelError: the template cannot be rendered, does not contain the picture and the question exactly once, or no
            token ends an answer.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_token: str,
        template: str | None,
        family: str,
        folder: Path,
        around: tuple[str, str] = ("", ""),
    ) -> None:
        self._tokenizer = tokenizer
        self._image_token = image_token
        self._template = template
        self._family = family
        self._folder = folder
        self.image_id: int = tokenizer.convert_tokens_to_ids(image_token)
        self._picture = image_token.join(around)
        asked = self.render(_QUESTION)
        for text, what in ((image_token, "the picture"), (_QUESTION, "the question")):
            if asked.count(text) != 1:
                raise ModelError(
                    f"model folder {folder}: chat template contains {what} {asked.count(text)} times; expected once"
                )
        bos: str | None = tokenizer.bos_token
        # As in stock processors, a template that writes the start token itself gets no second one.
        self.adds_special = self._family != "paligemma" and not (bos and asked.startswith(bos))
        asked = self._with_words(asked)
        self._tail = asked[max(asked.index(text) + len(text) for text in (image_token, _QUESTION)) :]
        self._before, after = self._around_answer(asked)
        self.end = self._end_token(after)

    def prompts(self, questions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each question's prompt, up to the start of the answer."""
        if not questions:
            return []
        rendered = [self._with_words(self.render(self._cut(question))) for question in questions]
        ids: list[list[int]] = self._tokenizer(rendered, add_special_tokens=self.adds_special)["input_ids"]
        return ids

    def cut(self, questions: Sequence[str]) -> list[bool]:
        """Return for each question whether it has more than :data:`QUESTION_TOKENS` tokens and is cut."""
        # A token has at least one byte.
        long = [question for question in questions if len(question.encode()) > QUESTION_TOKENS]
        lengths = dict(zip(long, map(len, self._ids(long)), strict=True)) if long else {}
        return [lengths.get(question, 0) > QUESTION_TOKENS for question in questions]

    def answers(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer as they follow a prompt, including the token that ends it."""
        # Tokenise answers after the end of the prompt, because some tokenizers put a space before a separate text.
        tail = self._ids([self._tail])[0]
        behind = self._ids([self._tail + self._before + answer for answer in answers])
        alone = self._ids([self._before + answer for answer in answers])
        return [
            [*(row[len(tail) :] if row[: len(tail)] == tail else other), self.end]
            for row, other in zip(behind, alone, strict=True)
        ]

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of an answer's token ids."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def render(self, question: str, answer: str | None = None) -> str:
        """Return the text of a question's prompt, as a stock processor receives it, or with an answer after it.

        Raises:
            ModelError: the template cannot be rendered.
        """
        image, start = self._image_token, self._tokenizer.bos_token or ""
        if self._template is None:
            if self._family == "paligemma":
                return f"{image}{start}{question}\n{answer or ''}"
            return f"{image}\nQuestion: {question}\nAnswer:" + ("" if answer is None else f" {answer}")
        turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        if answer is not None:
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    turns, chat_template=self._template, tokenize=False, add_generation_prompt=answer is None
                )
            )
        except Exception as error:  # Jinja raises many kinds of errors, and templates raise their own
            raise ModelError(
                f"model folder {self._folder}: chat template cannot be rendered: {first_line(error)}"
            ) from error

    def _with_words(self, text: str) -> str:
        """Return a rendered text with the words that go with its picture."""
        return text.replace(self._image_token, self._picture)

    def _around_answer(self, asked: str) -> tuple[str, str]:
        """Return the text between a prompt and its answer, and the text after the answer."""
        answered = self._with_words(self.render(_QUESTION, _ANSWER))
        before, found, after = answered.removeprefix(asked).partition(_ANSWER)
        # In some templates, a prompt differs from the start of an answered turn. Then the answer follows directly.
        return (before, after) if found and answered.startswith(asked) else ("", after)

    def _end_token(self, after: str) -> int:
        special = set(self._tokenizer.all_special_ids)
        ends = [token for token in self._ids([after])[0] if token in special]
        end: int | None = ends[0] if ends else self._tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                f"model folder {self._folder}: neither chat template nor tokenizer tells which token ends an answer"
            )
        return end

    def _cut(self, question: str) -> str:
        """Return a question without picture tokens, cut to :data:`QUESTION_TOKENS` tokens."""
        question = question.replace(self._image_token, " ")
        ids = self._ids([question])[0]
        return question if len(ids) <= QUESTION_TOKENS else str(self._tokenizer.decode(ids[:QUESTION_TOKENS]))

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids
