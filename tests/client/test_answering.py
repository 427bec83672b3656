"""Predictions are in the order in which scores choose an answer."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from feddat.algorithms import ALGORITHMS, RoundContext
from feddat.client.answering import Answering
from feddat.config import AlgorithmConfig
from feddat.example import Example
from feddat.tasks import TASKS, make_task


@given(st.sampled_from(sorted(TASKS)), st.integers(1, 60), st.integers(0, 3), st.integers(1, 70), st.integers(0, 99))
def test_of_equal_answers_the_predicted_one_is_the_scored_one(name, answers, values, k, seed):
    """All logits are 0, or one of a few numbers, so that many are equal."""
    task = make_task(name, [f"answer {n}" for n in range(answers)] if name == "vqa" else ())
    classes = len(task.classes)
    logits = torch.randint(0, values + 1, (3, classes), generator=torch.Generator().manual_seed(seed)).float()
    member = SimpleNamespace(
        generation=None, task=task, encode_unseen=lambda examples: None, inputs=lambda views, indices: {}
    )
    learner = SimpleNamespace(take=lambda *batch: None, answers=lambda route, head="main": logits)
    context = RoundContext(round=1, rounds=1, config=AlgorithmConfig())
    examples = [Example(id=str(n), images=(), text="") for n in range(3)]
    found = Answering(learner, ALGORITHMS["fedavg"], context, 8).likeliest(member, examples, "global", k)
    for row, top in enumerate(found):
        place = task.classes.index(top[0][0])
        right = torch.eye(classes)[place : place + 1] if name == "vqa" else torch.tensor([place])
        assert task.scores(logits[row : row + 1], right).item() == 1
        assert len(top) == min(k, classes)
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
