"""Closed and open questions, which papers on medical visual question answering report separately.

A closed question implies its few possible answers, mostly yes or no; an open question does not. If a dataset labels its
questions, the label counts. In other datasets, a question is closed if its answer is yes or no, as on the dataset cards
of VQA-RAD and PathVQA.
"""

from __future__ import annotations

from typing import Any

#: Key of the kind in an example's ``meta``.
KIND = "answer_type"
OPEN, CLOSED = "open", "closed"
_YES_OR_NO = frozenset({"yes", "no"})


def answer_kind(given: Any, answer: str) -> str:
    """Return ``open`` or ``closed``: the dataset's label in any spelling, or the kind that the answer implies."""
    said = str(given or "").strip().lower()
    if said in (OPEN, CLOSED):
        return said
    return CLOSED if answer.strip().strip(".").lower() in _YES_OR_NO else OPEN
