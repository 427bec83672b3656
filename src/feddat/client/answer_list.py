"""A client's list of answers, which matches the text that a backbone writes to an answer of the list.

Tokenizers change text when they decode it: BERT's puts spaces around punctuation ("10 : 15", "don ' t know") and
removes accents. The written text is therefore compared with each answer after the same encoding and decoding. It is
also compared by the rules of the VQA evaluation, which treats "The dog." and "dog" as equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from feddat.data.readers.vqa_answers import normalise_answer
from feddat.text import normal_answer

#: A punctuation mark with the spaces around it. Commas are left out: "2, 3" is not "2,3", which the evaluation reads
#: as 23.
_SPACED_MARK = re.compile(r"\s*([^\w\s,])\s*")
_SPACED_THOUSANDS = re.compile(r"(?<=\d)\s*,\s*(?=\d{3}\b)")


class AnswerList:
    """Finds the answer of the list that written tokens stand for.

    Args:
        answers: the list. Where several answers compare as equal, the first is found.
        tokens: the token ids of each answer, without start and end tokens.
        spell: decodes token ids to text.
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
        """Return the list position of the answer that these token ids spell (``None`` if absent), and the text.

        Compares the tokens first, then the text, then the text as the VQA evaluation normalises it.
        """
        text = self._spell(tokens)
        if (position := self._tokens.get(tuple(tokens))) is not None:
            return position, text
        found = (known.get(key) for known, key in zip(self._texts, _keys(text), strict=True) if key)
        return next((position for position in found if position is not None), None), text


def _keys(text: str) -> tuple[str, ...]:
    """Return the forms by which texts are compared, strictest first."""
    whole = normal_answer(text)
    joined = _SPACED_THOUSANDS.sub(",", _SPACED_MARK.sub(r"\1", whole))
    return whole, *(normalise_answer(spelling) or spelling for spelling in (whole, joined))
