"""Normalising answers as the VQA evaluation does: hand-made cases, and properties of any answer."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feddat.data.readers.records import Record
from feddat.data.readers.vqa_answers import ARTICLES, CONTRACTIONS, MARKS, normalise_answer, votes
from feddat.example import DataError


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes.", "yes"),
        (" the  Dog ", "dog"),
        ("two", "2"),
        ("None", "0"),
        ("eleven", "eleven"),
        ("2,000", "2000"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("t-shirt", "t shirt"),
        ("t-shirt - blue", "tshirt blue"),
        ("3.5", "3.5"),
        ("no. 5.", "no 5"),
        ("p.m.", "pm"),
        ("dont know", "don't know"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("twas", "'twas"),
        ("man's hat", "man's hat"),
        ("one\nand\ta half", "1 and half"),
        ("an", ""),
        ("?!", ""),
        ("café", "café"),
    ],
)
def test_hand_made_answers(answer: str, expected: str) -> None:
    assert normalise_answer(answer) == expected


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from([*MARKS, "a", "the", "ten", "dont", "1", ",", ".", " "])).map("".join)
)
def test_any_answer_is_in_lower_case_without_marks_and_articles(answer: str) -> None:
    words = normalise_answer(answer).split(" ")
    assert not set("".join(words)) & set(MARKS)
    assert not set(words) & ARTICLES
    assert all(word == word.lower() for word in words)


@given(
    st.lists(st.sampled_from(["red", "dont", "seven", "2,5", "1.5", "the", "x-ray", "dog's", "o'clock", "St.", "?"]))
)
def test_normalising_twice_changes_nothing(words: list[str]) -> None:
    once = normalise_answer(" ".join(words))
    assert normalise_answer(once) == once


@pytest.mark.parametrize("word", CONTRACTIONS)
def test_a_contraction_is_kept_and_found_without_an_apostrophe(word: str) -> None:
    assert normalise_answer(word) == word
    assert normalise_answer(word.replace("'", "", 1)) == word


def test_votes_of_texts_and_objects() -> None:
    answers = ["Red.", {"answer": "red"}, "A", "", None, {"answer": None}, 2, True]
    expected = ["red", "red", "a", None, None, None, "2", "true"]
    assert votes(Record(Path("f"), "line 1", {"answers": answers})) == expected
    with pytest.raises(DataError, match="f, line 1: answers: expected a list, got None"):
        votes(Record(Path("f"), "line 1", {}))
