"""Normalise annotators' answers as the VQA evaluation does: punctuation, articles, number words and contractions.

The rules come from the evaluation of Antol et al., "VQA: Visual Question Answering", ICCV 2015 (arXiv 1505.00468;
visualqa.org/evaluation). They apply to every answer, so that a vocabulary counts "The dog." and "dog" as one answer.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from feddat.data.readers.answers import ANSWER
from feddat.data.readers.records import Record
from feddat.data.readers.values import as_text, is_missing, is_single, shown
from feddat.example import DataError
from feddat.text import normal_answer

MARKS = ';/[]"{}()=+\\_-><@`,?!'
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {word: str(number) for number, word in enumerate(
    "zero one two three four five six seven eight nine ten".split()
)} | {"none": "0"}  # fmt: skip
#: A word that equals one of these without one of its apostrophes gets the apostrophe back. Two kinds of entries of the
#: published table are left out: those that never match (upper case), and misprints (one removes an apostrophe).
CONTRACTIONS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've
    must've mustn't needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
""".split()
_APOSTROPHES = {
    word[:place] + word[place + 1 :]: word
    for word in CONTRACTIONS
    for place, character in enumerate(word)
    if character == "'"
}
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


@lru_cache(maxsize=1 << 16)
def normalise_answer(answer: str) -> str:
    """Return the normal form of an answer; empty if the answer consists of punctuation and articles only.

    First, :func:`feddat.text.normal_answer` brings the answer into its Unicode normal form. A punctuation mark that is
    next to a space anywhere in the answer is dropped everywhere in it; other marks become spaces. In an answer with a
    comma between two digits, all marks are dropped. A period is dropped unless a digit follows. Words become lower
    case, number words up to ten become digits, articles are dropped, and contractions get their apostrophe.
    """
    text = normal_answer(answer)
    comma_in_number = _COMMA_IN_NUMBER.search(text) is not None
    plain = text
    for mark in MARKS:
        dropped = comma_in_number or f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if dropped else " ")
    words = (NUMBERS.get(word, word) for word in _PERIOD.sub("", plain).split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in ARTICLES)


def votes(record: Record) -> list[str | None]:
    """Return the normalised answers of a record's annotators.

    ``answers`` is a list of texts, or of objects with an ``answer``. An answer that is only an article (the letter A)
    stays as it is. A null or blank answer becomes ``None``.

    Raises:
        DataError: ``answers`` is not such a list.
    """
    given = record.items("answers")
    return [_vote(record, f"answer {number} of {len(given)}", item) for number, item in enumerate(given, 1)]


def _vote(record: Record, place: str, item: Any) -> str | None:
    answer = item.get(ANSWER) if isinstance(item, dict) else item
    if is_missing(answer):
        return None
    if not is_single(answer):
        raise DataError(f"{record.where}: {place}: expected text, got {shown(answer)}")
    text = as_text(answer)
    return normalise_answer(text) or normal_answer(text)
