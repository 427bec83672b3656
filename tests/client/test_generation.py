from itertools import pairwise
from math import exp, inf, log
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from writer import END, LETTERS, START, Writer

from feddat.client.generation import FEWEST_TOKENS, AnnotatedAnswers, AnswerTable, Generation
from feddat.client.learner import BatchLearner
from feddat.config import EvalConfig
from feddat.example import DataError, Example
from feddat.models.generative import GenerativeBackbone, Questions

CPU = torch.device("cpu")
EXAMPLES = [
    Example("0", (), "?", answers={"a": 1.0}),
    Example("1", (), "?", answers={"abc": 0.9, "b": 0.3}),
    Example("2", (), "?", answers={"b": 0.0}),
]


def questions(count, seed=1):
    return {"question": torch.randn(count, 1, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)}


def likelihood(backbone, question, answer):
    """Return log p(answer), token by token."""
    tokens = backbone.answer_tokens([answer])[0]
    state, total = question.clone(), []
    for token, following in pairwise(tokens):
        state = state + backbone.embeddings[token]
        scores = backbone.head @ state
        total.append((scores[following] - scores.exp().sum().log()).item())
    return total


def test_the_writer_is_a_generative_backbone():
    assert isinstance(Writer(), GenerativeBackbone)


def test_a_table_pads_to_the_longest_of_those_picked():
    table = AnswerTable([[6, 1, 7], [6, 1, 2, 3, 7], [6, 2, 2, 7]])
    ids, mask = table.pick(torch.tensor([2, 0]), CPU)
    assert ids.tolist() == [[6, 2, 2, 7], [6, 1, 7, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, True, False]]


def test_a_batch_holds_every_annotated_answer_with_its_share():
    batch = AnnotatedAnswers(EXAMPLES, Writer()).batch(torch.tensor([1, 0, 2]), CPU)
    assert batch["answer_rows"].tolist() == [0, 0, 1, 2]
    assert batch["answer_weights"].tolist() == pytest.approx([0.75, 0.25, 1.0, 0.0])
    assert batch["answer_ids"][:3].tolist() == [
        [START, 1, 2, 3, END], [START, 2, END, 0, 0], [START, 1, END, 0, 0]
    ]  # fmt: skip


def test_an_example_without_answers_is_named():
    with pytest.raises(DataError, match="example 9: no answers"):
        AnnotatedAnswers([Example("9", (), "?")], Writer())


def test_the_loss_by_hand():
    backbone, inputs = Writer(), questions(2)
    inputs |= AnnotatedAnswers(EXAMPLES, backbone).batch(torch.tensor([0, 1]), CPU)
    logits = backbone.answer_head()(backbone.features(inputs))
    first, second = inputs["question"][:, 0]
    expected = -sum(likelihood(backbone, first, "a"))
    expected -= 0.75 * sum(likelihood(backbone, second, "abc")) + 0.25 * sum(likelihood(backbone, second, "b"))
    found = Generation(backbone, ["a"], EvalConfig()).loss(logits, inputs, 2)
    assert found.item() == pytest.approx(expected / 2)
    assert backbone.read_count == 1


@pytest.mark.parametrize("counts", [1, 2])
def test_ranking_all_is_the_likelihood_of_each(counts):
    backbone, inputs, answers = Writer(counts), questions(3), ["a", "abc", "ab", "b", "edcba"]
    found = Generation(backbone, answers, EvalConfig(batch_size=2)).answer(backbone.answer_head(), inputs)
    for row, question in zip(found, inputs["question"][:, 0], strict=True):
        each = [likelihood(backbone, question, answer) for answer in answers]
        assert row.tolist() == pytest.approx([sum(terms) + (counts - 1) * terms[0] for terms in each])


@settings(max_examples=30)
@given(
    answers=st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=8, unique=True),
    top=st.integers(1, 9),
    batch_size=st.integers(1, 20),
    seed=st.integers(0, 99),
)
def test_the_top_by_first_token_are_ranked_and_no_others(answers, top, batch_size, seed):
    backbone, inputs = Writer(seed=seed), questions(2, seed)

    def rank(**settings):
        return Generation(backbone, answers, EvalConfig(**settings)).answer(backbone.answer_head(), inputs)

    ranked = rank(rank_top=top, batch_size=batch_size)
    every = rank(batch_size=1)
    kept = ranked.isfinite()
    assert (kept.sum(dim=1) == min(top, len(answers))).all()
    torch.testing.assert_close(ranked[kept], every[kept])
    for row, question in zip(kept, inputs["question"][:, 0], strict=True):
        first = torch.tensor([likelihood(backbone, question, answer)[0] for answer in answers])
        assert row.all() or first[row].min() >= first[~row].max() - 1e-6


def learner(backbone, inputs, count):
    member = SimpleNamespace(
        task=SimpleNamespace(views_per_example=1, logits=lambda head, features: head(features)),
        pooled=lambda features: features,
        heads={"main": backbone.answer_head()},
        generation=Generation(backbone, list(LETTERS), EvalConfig(batch_size=4)),
    )
    made = BatchLearner(backbone, SimpleNamespace(route=lambda route: None), "fp32")
    made.take(member, inputs, torch.zeros(count, 5))
    return made


def test_distillation_leaves_padding_out():
    inputs = questions(2) | AnnotatedAnswers(EXAMPLES, Writer()).batch(torch.tensor([0, 1]), CPU)
    made = learner(Writer(), inputs, 2)
    student = torch.zeros(3, 4, 2, dtype=torch.float64)
    teacher = student.clone()
    teacher[0, 1, 0] = 3 * log(3)  # a place of "a END": p = 3/4, 1/4 at temperature 3
    teacher[0, 2, 0] = 50.0  # padding behind it
    divergence = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert made.distillation_loss(student, teacher, 3.0).item() == pytest.approx(9 * divergence / 3)


def test_a_learner_answers_with_the_ranking_and_trains_on_the_annotated():
    backbone = Writer()
    inputs = questions(2) | AnnotatedAnswers(EXAMPLES, backbone).batch(torch.tensor([0, 0]), CPU)
    made = learner(backbone, inputs, 2)
    each = [
        [sum(likelihood(backbone, question, answer)) for answer in LETTERS] for question in inputs["question"][:, 0]
    ]
    assert made.answers("global").tolist() == [pytest.approx(row) for row in each]
    loss = made.task_loss(made.logits(made.features("global")))
    assert loss.item() == pytest.approx(-(each[0][0] + each[1][0]) / 2)


class Speller(Writer):
    """Writes a given text for each question; every token of it is e^5 times as likely as each of the 7 others."""

    def __init__(self, *texts):
        super().__init__()
        self.tokens = [super(Speller, self).answer_tokens([text])[0] + [END] * 40 for text in texts]

    def answer_head(self):
        return torch.nn.Identity()

    def read(self, inputs):
        return Questions(torch.arange(len(self.tokens))[:, None, None], torch.ones(len(self.tokens), 1))

    def decode(self, questions, ids, mask):
        rows = questions.states.flatten().tolist()
        following = [self.tokens[row][1 : ids.shape[1] + 1] for row in rows]
        return 5.0 * torch.nn.functional.one_hot(torch.tensor(following), 8)


def write(answers, *texts):
    backbone = Speller(*texts)
    generation = Generation(backbone, answers, EvalConfig(answers="generate"))
    return generation.answer(backbone.answer_head(), {}), generation.written


def test_written_answers_are_looked_up_in_the_list():
    scores, written = write(["b", "Bad", "d"], "bad", "e", "b")
    sure = log(1 + 7 * exp(-5))
    assert scores.tolist() == [
        [-inf, pytest.approx(-4 * sure), -inf], [-inf, -inf, -inf], [pytest.approx(-2 * sure), -inf, -inf]
    ]  # fmt: skip
    assert [text for text, _ in written] == ["Bad", "e", "b"]
    assert [p for _, p in written] == pytest.approx([exp(-4 * sure), exp(-2 * sure), exp(-2 * sure)])


def test_endless_writing_is_cut_behind_the_longest_answer_of_the_list():
    endless = "abcde" * 8
    _, written = write(["b", "a"], endless)
    assert written[0][0] == endless[: FEWEST_TOKENS + 1]  # one more is written before the cut
    scores, written = write(["b", endless[:30]], endless[:30], endless)
    assert written[0][0] == endless[:30]
    assert scores.isfinite().tolist() == [[False, True], [False, False]]
    assert written[1][0] == endless[:31]


def test_ranking_writes_nothing():
    backbone = Writer()
    generation = Generation(backbone, ["a", "b"], EvalConfig())
    generation.answer(backbone.answer_head(), questions(2))
    assert generation.written == []
