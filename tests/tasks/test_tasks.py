import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from feddat.example import DataError, Example
from feddat.tasks import TASKS, make_task

LEFT, RIGHT = (np.full((2, 2, 3), value, dtype=np.uint8) for value in (1, 2))


def example(**changes) -> Example:
    return Example(**({"id": "e1", "images": (LEFT,), "text": "why ?"} | changes))


def task(name: str):
    return make_task(name, ("red", "blue", "green") if name == "vqa" else ())


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_names_and_keys_agree():
    assert set(TASKS) == {"vqa", "nlvr2", "snli-ve", "vcr"}
    assert all(task(name).name == name for name in TASKS)


def test_unknown_task_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown task 'vqa2'; expected vqa, nlvr2, snli-ve, vcr"):
        make_task("vqa2")


@pytest.mark.parametrize("name", ["nlvr2", "snli-ve", "vcr"])
def test_answers_belong_to_vqa_alone(name):
    with pytest.raises(ValueError, match=f"{name}: its classes are fixed, but 2 answers"):
        make_task(name, ("red", "blue"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        # d = 8: Linear(d, 2d) + LayerNorm(2d) + Linear(2d, C), each with biases
        ("vqa", 8 * 16 + 16 + 32 + 16 * 3 + 3),
        ("nlvr2", 16 * 16 + 16 + 32 + 16 * 2 + 2),
        ("snli-ve", 8 * 16 + 16 + 32 + 16 * 3 + 3),
        ("vcr", 8 + 1),
    ],
)
def test_head_sizes(name, parameters):
    assert count(task(name).build_head(8)) == parameters


@pytest.mark.parametrize("name", sorted(TASKS))
def test_head_comes_from_the_global_generator(name):
    def weights(seed: int):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in task(name).build_head(4).parameters()])

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


@pytest.mark.parametrize("name", ["nlvr2", "snli-ve", "vcr"])
def test_word_head_is_refused_where_classes_are_no_words(name):
    with pytest.raises(ValueError, match=name):
        task(name).build_head(4, nn.Linear(4, 3))


@pytest.mark.parametrize("name", sorted(TASKS))
@pytest.mark.parametrize("examples", [1, 3])
def test_logits_loss_and_scores_have_the_promised_shapes(name, examples):
    subject = task(name)
    torch.manual_seed(0)
    features = torch.randn(examples * subject.views_per_example, 4, requires_grad=True)
    logits = subject.logits(subject.build_head(4), features)
    assert logits.shape == (examples, len(subject.classes))
    targets = subject.targets([example(answers={"red": 1.0}, label=1)] * examples)
    loss = subject.loss(logits, targets)
    assert loss.ndim == 0
    loss.backward()
    assert features.grad.abs().sum(dim=1).min() > 0  # every view counts
    scores = subject.scores(logits, targets)
    assert scores.shape == (examples,) and scores.dtype == torch.float32


@pytest.mark.parametrize("name", sorted(TASKS))
def test_an_example_depends_on_its_own_views_alone(name):
    subject = task(name)
    head, views = subject.build_head(4), subject.views_per_example
    features = torch.randn(3 * views, 4)
    together = subject.logits(head, features)
    for i in range(3):
        alone = subject.logits(head, features[i * views : (i + 1) * views])
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_bf16_logits_are_lifted_to_float32_and_float64_is_kept(name):
    subject = task(name)
    targets = subject.targets([example(answers={"red": 1.0}, label=1)])
    logits = torch.tensor([[0.5, -0.25, 1.0, 2.0]])[:, : len(subject.classes)]
    losses = [subject.loss(logits.to(dtype), targets) for dtype in (torch.bfloat16, torch.float32, torch.float64)]
    assert [loss.dtype for loss in losses] == [torch.float32, torch.float32, torch.float64]
    assert losses[0] == losses[1] == losses[2].float()


@pytest.mark.parametrize(
    ("name", "logits", "label", "loss"),
    [
        ("nlvr2", [0.0, math.log(3)], 1, math.log(4 / 3)),  # probabilities 1/4, 3/4
        ("snli-ve", [0.0, 0.0, math.log(2)], 0, math.log(4)),  # 1/4, 1/4, 1/2
        ("vcr", [0.0, 0.0, 0.0, math.log(5)], 3, math.log(8 / 5)),  # 1/8, 1/8, 1/8, 5/8
    ],
)
def test_cross_entropy_by_hand(name, logits, label, loss):
    subject = task(name)
    logits = torch.tensor([logits])
    targets = subject.targets([example(label=label)])
    assert targets.dtype == torch.long
    assert subject.loss(logits, targets).item() == pytest.approx(loss, abs=1e-6)
    # a second example with uniform logits: log C; the loss is the mean of both
    both = torch.cat([logits, torch.zeros_like(logits)])
    expected = (loss + math.log(logits.shape[1])) / 2
    assert subject.loss(both, targets.repeat(2)).item() == pytest.approx(expected, abs=1e-6)


def test_label_scores_by_hand():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    assert task("snli-ve").scores(logits, torch.tensor([1, 2, 2])).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("name", "label"), [("nlvr2", 2), ("snli-ve", None), ("vcr", -1)])
def test_bad_label_is_named(name, label):
    with pytest.raises(DataError, match=f"example e1: label {label}: expected 0 to {len(task(name).classes) - 1}"):
        task(name).targets([example(id="e0", label=0), example(label=label)])


def test_classes_of_fixed_tasks():
    assert task("snli-ve").classes == ("entailment", "neutral", "contradiction")
    assert task("nlvr2").classes == ("false", "true")
    assert len(task("vcr").classes) == 4


@pytest.mark.parametrize("name", ["vqa", "snli-ve"])
def test_one_image_beside_the_text(name):
    (view,) = task(name).views(example())
    assert view.image is LEFT and view.text == "why ?"


def test_nlvr2_shows_each_image_with_the_sentence():
    views = task("nlvr2").views(example(images=(LEFT, RIGHT)))
    assert [view.image[0, 0, 0] for view in views] == [1, 2]
    assert [view.text for view in views] == ["why ?", "why ?"]


def test_vcr_shows_the_image_with_each_answer():
    views = task("vcr").views(example(choices=("a", "b", "c", "d")))
    assert [view.text for view in views] == ["why ? a", "why ? b", "why ? c", "why ? d"]
    assert all(view.image is LEFT for view in views)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vqa", {"images": ()}, "example e1: 0 images; expected 1 for vqa"),
        ("nlvr2", {}, "example e1: 1 images; expected 2 for nlvr2"),
        ("snli-ve", {"images": (LEFT, RIGHT)}, "example e1: 2 images; expected 1 for snli-ve"),
        ("vcr", {"images": (LEFT, RIGHT), "choices": ("a", "b", "c", "d")}, "example e1: 2 images; expected 1 for vcr"),
        ("vcr", {"choices": ("a", "b", "c")}, "example e1: 3 choices; expected 4 for vcr"),
    ],
)
def test_example_of_another_task_is_named(name, changes, message):
    with pytest.raises(DataError, match=message):
        task(name).views(example(**changes))


def test_nlvr2_concatenates_left_before_right():
    head = nn.Linear(4, 1, bias=False)
    head.weight.data = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    features = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]])
    assert task("nlvr2").logits(head, features).tolist() == [[4321.0], [8765.0]]


def test_vcr_scores_each_answer_with_the_same_head():
    head = nn.Linear(1, 1)
    head.weight.data, head.bias.data = torch.tensor([[2.0]]), torch.tensor([1.0])
    logits = task("vcr").logits(head, torch.arange(8.0)[:, None])
    assert logits.tolist() == [[1.0, 3.0, 5.0, 7.0], [9.0, 11.0, 13.0, 15.0]]


@given(logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=2), label=st.integers(0, 1))
def test_loss_is_lowest_where_the_answer_is_right(logits, label):
    subject = task("nlvr2")
    row = torch.tensor([logits])
    right, wrong = (subject.loss(row, torch.tensor([target])).item() for target in (label, 1 - label))
    if subject.scores(row, torch.tensor([label])).item() == 1:
        assert right <= wrong
    else:
        assert right >= wrong
