"""What papers on medical visual question answering keep apart: closed questions and open ones.

A closed question is answered from a few answers that the question implies, mostly yes or no; an open one is not.
Datasets that say which is which are believed; of others, questions answered by yes or no are closed, as on the cards
of VQA-RAD and PathVQA.
"""

from __future__ import annotations

from typing import Any

#: Where an example's ``meta`` says which it is.
KIND = "answer_type"
OPEN, CLOSED = "open", "closed"
_YES_OR_NO = frozenset({"yes", "no"})


def answer_kind(given: Any, answer: str) -> str:
    """Return ``open`` or ``closed``: as a dataset says in any spelling, or by the answer."""
    said = str(given or "").strip().lower()
    if said in (OPEN, CLOSED):
        return said
    return CLOSED if answer.strip().strip(".").lower() in _YES_OR_NO else OPEN
