"""A client's list of answers, and which of them it is that a backbone has written.

Tokenizers do not give back a text as it was: BERT's puts spaces around marks ("10 : 15", "don ' t know") and takes
accents away. So what was written is compared with what each answer of the list becomes by the same way, and as the VQA
evaluation compares answers, which does not tell "The dog." from "dog".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from feddat.data.readers.vqa_answers import normalise_answer
from feddat.text import normal_answer

#: A mark with the spaces around it. A comma has to keep them: "2, 3" is not "2,3", which the evaluation reads as 23.
_SPACED_MARK = re.compile(r"\s*([^\w\s,])\s*")
_SPACED_THOUSANDS = re.compile(r"(?<=\d)\s*,\s*(?=\d{3}\b)")


class AnswerList:
    """Finds answers by what was written.

    Args:
        answers: the list; of answers that are the same in some way, the first is found.
        tokens: their token ids, start and end left out.
        spell: what a tokenizer makes of token ids.
    """

    def __init__(
        self, answers: Sequence[str], tokens: Sequence[Sequence[int]], spell: Callable[[Sequence[int]], str]
    ) -> None:
        self._spell = spell
        self._tokens: dict[tuple[int, ...], int] = {}
        self._texts: tuple[dict[str, int], ...] = tuple({} for _ in _keys(""))
        for position, (answer, ids) in enumerate(zip(answers, tokens, strict=True)):
            self._tokens.setdefault(tuple(ids), position)
            for text in (answer, spell(ids)):
                for known, key in zip(self._texts, _keys(text), strict=True):
                    known.setdefault(key, position)

    def find(self, tokens: Sequence[int]) -> tuple[int | None, str]:
        """Return the place in the list of what these token ids spell (``None``: it is not there), and the text.

        The same tokens are the same answer; else the same text; else the same to the VQA evaluation.
        """
        text = self._spell(tokens)
        if (position := self._tokens.get(tuple(tokens))) is not None:
            return position, text
        found = (known.get(key) for known, key in zip(self._texts, _keys(text), strict=True) if key)
        return next((position for position in found if position is not None), None), text


def _keys(text: str) -> tuple[str, ...]:
    """Return what texts are compared by, the strictest first."""
    whole = normal_answer(text)
    joined = _SPACED_THOUSANDS.sub(",", _SPACED_MARK.sub(r"\1", whole))
    return whole, *(normalise_answer(spelling) or spelling for spelling in (whole, joined))
