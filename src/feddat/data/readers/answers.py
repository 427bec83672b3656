"""Parse the ``answers`` of a record: one right answer, annotators' votes, or scores.

| value | meaning |
| --- | --- |
| a text, a number, a truth value | the one right answer, with score 1 |
| a list of these, or of objects with an ``answer`` (as in VQA v2) | votes: each answer scores min(1, 0.3 x votes) |
| an object with ``answer`` | the value of ``answer``, by the same rules |
| any other object | answer -> score in [0, 1] |

Null and blank votes are counted and ignored; they do not change the scores of the other votes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from feddat.data.readers.values import as_text, is_missing, is_single, shown
from feddat.text import normal_answer

#: The key of an annotator's answer in published files.
ANSWER = "answer"
_EXPECTED = "a text, a list of texts, or a mapping from answer to score"


def read_answers(value: Any) -> tuple[dict[str, float], int]:
    """Return the score of every answer (empty if there is none), and the number of blank votes.

    Raises:
        ValueError: the value has none of the forms above; the message says what was expected.
    """
    if isinstance(value, Mapping) and ANSWER in value and not _is_score(value[ANSWER]):
        value = value[ANSWER]
    if is_missing(value):
        return {}, 0
    if is_single(value):
        return {normal_answer(as_text(value)): 1.0}, 0
    if isinstance(value, Mapping):
        return _scores(value)
    if isinstance(value, list | tuple):
        return _votes(value)
    raise ValueError(f"expected {_EXPECTED}, got {shown(value)}")


def _votes(votes: Iterable[Any]) -> tuple[dict[str, float], int]:
    given = []
    for number, vote in enumerate(votes, 1):
        said = vote[ANSWER] if isinstance(vote, Mapping) and ANSWER in vote else vote
        if not is_missing(said) and not is_single(said):
            raise ValueError(f"expected {_EXPECTED}; vote {number} is {shown(vote)}")
        given.append("" if is_missing(said) else normal_answer(as_text(said)))
    # Votes are counted after normalisation: "Red" and "red" are two votes for one answer.
    counts = Counter(given)
    blank = counts.pop("", 0)
    return {answer: min(1.0, count * 3 / 10) for answer, count in counts.items()}, blank


def _scores(scores: Mapping[Any, Any]) -> tuple[dict[str, float], int]:
    merged: dict[str, float] = {}
    blank = 0
    for answer, score in scores.items():
        if not _is_score(score) or not math.isfinite(score) or not 0 <= score <= 1:
            raise ValueError(f"score of {shown(answer)} must be in [0, 1], got {shown(score)}")
        key = normal_answer(str(answer))
        if not key:
            blank += 1
            continue
        merged[key] = max(float(score), merged.get(key, 0.0))
    return merged, blank


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
