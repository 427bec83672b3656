import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from feddat.example import DataError, Example
from feddat.tasks import make_task, vqa_score

ANSWERS = ("red", "blue", "green")
LOG2 = math.log(2)


def example(**answers: float) -> Example:
    return Example(id="q7", images=(np.zeros((1, 1, 3), np.uint8),), text="what color ?", answers=answers)


def test_score_of_a_count():
    assert [vqa_score(count) for count in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1]


def test_targets_are_soft_and_answers_outside_the_vocabulary_are_dropped():
    targets = make_task("vqa", ANSWERS).targets([example(green=0.9, red=0.3), example(blue=1, pink=1), example(pink=1)])
    torch.testing.assert_close(targets, torch.tensor([[0.3, 0.0, 0.9], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))


def test_nothing_gives_no_targets():
    assert make_task("vqa", ANSWERS).targets([]).shape == (0, 3)


def test_score_is_the_soft_score_of_the_argmax():
    logits = torch.tensor([[9.0, 1.0, 2.0], [0.0, 1.0, 2.0], [-3.0, -1.0, -2.0]])
    targets = torch.tensor([[0.3, 0.0, 0.9], [0.3, 0.0, 0.9], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(make_task("vqa", ANSWERS).scores(logits, targets), torch.tensor([0.3, 0.9, 0.0]))


def test_loss_by_hand():
    task = make_task("vqa", ANSWERS)
    # At logit 0 every answer costs log 2 whatever its target: 3 answers, mean over any number of examples.
    assert task.loss(torch.zeros(1, 3), torch.tensor([[0.3, 0.0, 1.0]])).item() == pytest.approx(3 * LOG2)
    assert task.loss(torch.zeros(5, 3), torch.rand(5, 3)).item() == pytest.approx(3 * LOG2)
    # sigmoid(log 3) = 3/4; target 0.6: -(0.6 log 3/4 + 0.4 log 1/4); target 0: -log 1/4
    logits = torch.tensor([[math.log(3), math.log(3), 0.0]])
    expected = -(0.6 * math.log(3 / 4) + 0.4 * math.log(1 / 4)) + math.log(4) + LOG2
    assert task.loss(logits, torch.tensor([[0.6, 0.0, 0.0]])).item() == pytest.approx(expected, abs=1e-6)


def test_word_head_is_taken_as_it_is():
    words = nn.Linear(4, 3)
    task = make_task("vqa", ANSWERS)
    assert task.build_head(4, words) is words
    features = torch.randn(2, 4)
    assert torch.equal(task.logits(words, features), words(features))


@pytest.mark.parametrize(
    ("answers", "message"), [((), "vocabulary is empty"), (("red", "blue", "red"), "'red' is in the vocabulary twice")]
)
def test_unusable_vocabulary_is_refused(answers, message):
    with pytest.raises(ValueError, match=message):
        make_task("vqa", answers)


def test_example_without_answers_is_named():
    with pytest.raises(DataError, match="example q7: no answers"):
        make_task("vqa", ANSWERS).targets([example(red=1), example()])


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_impossible_score_is_named(score):
    with pytest.raises(DataError, match=f"example q7: answer 'red' has score {score}"):
        make_task("vqa", ANSWERS).targets([example(red=score)])


@given(
    answers=st.dictionaries(st.sampled_from([*ANSWERS, "pink", "gray"]), st.floats(0, 1, width=32), min_size=1),
    logits=st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3, unique=True),
)
def test_score_is_what_the_example_gives_the_best_answer(answers, logits):
    task = make_task("vqa", ANSWERS)
    best = ANSWERS[max(range(3), key=logits.__getitem__)]
    score = task.scores(torch.tensor([logits]), task.targets([example(**answers)])).item()
    assert score == pytest.approx(answers.get(best, 0.0))


def test_a_row_that_answers_nothing_scores_nothing():
    nothing = torch.full((1, 2), -torch.inf)
    assert make_task("vqa", ("red", "blue")).scores(nothing, torch.ones(1, 2)).tolist() == [0.0]
