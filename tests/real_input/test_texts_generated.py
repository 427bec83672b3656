"""Answers that a model writes are found in the answer list, whatever its tokenizer makes of them."""

from __future__ import annotations

import string
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feddat.client.answer_list import AnswerList
from feddat.client.generation import FEWEST_TOKENS, Generation
from feddat.config import EvalConfig
from feddat.models.catalog import FAMILIES, load_backbone
from feddat.models.generative import GenerativeBackbone, Questions
from feddat.text import normal_answer
from helpers import make_unit

WRITERS = [family for family in FAMILIES if family not in ("vilt", "vilt-bert", "clip", "siglip")]
MARKS = (*string.punctuation, "°")
#: Answers to everyday questions; some differ only in a punctuation mark.
EVERYDAY = (
    """
yes|no|2|don't know|10:15|men's|1.5|15|café|naïve|t-shirt|2,000|2, 3|23|o'clock|yes, sir|black/white|r&b|50%|$5|p.m.
no. 5|st. john's|dogs' bones|3/4|3-4|a|the|(left)|a+|c++|#1|x-ray - blue|7-up|it's 5 o'clock|left; right|"stop"|50 °c
what?|no!|1st|dr. who|mother's day|ñandú|ok :-)|hot dog|the hot dog stand|50 cent|@home|e.g.|-5|- 5 -|1,5|not sure
""".strip()
    .replace("\n", "|")
    .split("|")
)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, GenerativeBackbone]:
    root = tmp_path_factory.mktemp("writers")
    return {family: load_backbone(str(make_unit(family, root / family, MARKS))) for family in WRITERS}


@pytest.fixture(params=WRITERS)
def backbone(request: pytest.FixtureRequest, backbones: dict[str, GenerativeBackbone]) -> GenerativeBackbone:
    assert isinstance(backbones[request.param], GenerativeBackbone)
    return backbones[request.param]


def listed(backbone: GenerativeBackbone, answers: list[str]) -> tuple[AnswerList, list[list[int]]]:
    tokens = [ids[1:-1] for ids in backbone.answer_tokens(answers)]
    return AnswerList(answers, tokens, backbone.answer_text), tokens


def test_everyday_answers_are_found_as_themselves(backbone: GenerativeBackbone) -> None:
    answers, tokens = listed(backbone, EVERYDAY)
    found = [answers.find(ids)[0] for ids in tokens]
    assert [EVERYDAY[position] for position in found if position is not None] == EVERYDAY


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    answers=st.lists(
        st.text(st.sampled_from(" 'a1,.:-/é") | st.characters(codec="utf-8"), min_size=1, max_size=12).map(
            normal_answer
        ),
        min_size=1,
        max_size=8,
        unique=True,
    )
)
def test_any_answer_written_token_for_token_is_found(backbone: GenerativeBackbone, answers: list[str]) -> None:
    found, tokens = listed(backbone, answers)
    for ids in tokens:
        position = found.find(ids)[0]
        assert position is not None and tokens[position] == ids


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("Don't know.", "don't know"),
        ("dont know", "don't know"),
        ("the café", "café"),
        ("10 : 15", "10:15"),
        ("two", "2"),
        ("2000", "2,000"),
        ("Black / White", "black/white"),
        ("1 , 000", None),
        ("2 3", "2, 3"),
        ("151", None),
    ],
)
def test_what_the_evaluation_does_not_tell_apart_is_found(
    backbone: GenerativeBackbone, written: str, answer: str | None
) -> None:
    answers, _ = listed(backbone, EVERYDAY)
    position = answers.find(backbone.answer_tokens([written])[0][1:-1])[0]
    assert (None if position is None else EVERYDAY[position]) == answer


def test_answers_that_the_list_does_not_have_are_not_found(backbone: GenerativeBackbone) -> None:
    answers, tokens = listed(backbone, ["15", "23", "ab", "men", "3"])
    others = ["1.5", "1:5", "2, 3", "2/3", "a-b", "men's", "-", "", "1.5.", "3 3", "0.3"]
    for other, (_, *ids, _) in zip(others, backbone.answer_tokens(others), strict=True):
        assert answers.find(ids)[0] is None, other
    assert [answers.find(ids)[0] for ids in tokens] == [0, 1, 2, 3, 4]


class Dictated:
    """A backbone that writes given texts, with the tokenizer of another backbone."""

    first_token_counts = 1

    def __init__(self, backbone: GenerativeBackbone, texts: list[str]) -> None:
        self.answer_tokens, self.answer_text = backbone.answer_tokens, backbone.answer_text
        self._rows = [[*ids, *ids[-1:] * 40] for ids in backbone.answer_tokens(texts)]

    def read(self, inputs: dict[str, torch.Tensor]) -> Questions:
        rows = torch.arange(len(self._rows))
        return Questions(rows[:, None, None], torch.ones(len(rows), 1))

    def decode(self, questions: Questions, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        following = [self._rows[row][1 : ids.shape[1] + 1] for row in questions.states.flatten().tolist()]
        size = 1 + max(max(row) for row in self._rows)
        return 9.0 * torch.nn.functional.one_hot(torch.tensor(following), size)


def test_the_longest_answers_of_a_list_can_be_given(backbone: GenerativeBackbone) -> None:
    words = ["red", "blue", "green"]
    # As long as the tokenizers allow: BERT's cut answers at 14 tokens here.
    answers = ["red", " ".join(words[n % 3] for n in range(13)), " ".join(words[n % 2] for n in range(13))]
    assert all(len(ids) - 2 > FEWEST_TOKENS for ids in backbone.answer_tokens(answers[1:]))
    dictated: Any = Dictated(backbone, answers)
    generation = Generation(dictated, answers, EvalConfig(answers="generate"))
    scores = generation.answer(torch.nn.Identity(), SimpleNamespace())  # type: ignore[arg-type]
    assert scores.isfinite().tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert [text for text, _ in generation.written] == answers


def test_bundled_albef_finds_what_it_writes(tmp_path: Path) -> None:
    answers, tokens = listed(load_backbone("albef-mini"), EVERYDAY)
    for ids in tokens:
        position = answers.find(ids)[0]
        assert position is not None and tokens[position] == ids
