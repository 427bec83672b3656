"""What messages say of a client's data as a whole: on numbers, and on two clients that have no answer in common."""

from dataclasses import replace

import numpy as np
import pytest

from feddat.audit.candidates import draw_candidates
from feddat.audit.mixtures import Pool, draw_mixtures
from feddat.audit.properties import answer_shares, infer, ridge
from feddat.audit.replay import replay
from feddat.example import Example
from feddat.experiment import Experiment, load_clients

ANSWERS = {"ann": ("red", "blue", "green"), "bob": ("yes", "no", "circle")}


def test_ridge_finds_a_line_and_gives_up_on_noise():
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(40, 3))
    values = rows @ np.array([[1.0], [-2.0], [0.5]]) + 7
    asked = generator.normal(size=(5, 3))
    expected = asked @ np.array([[1.0], [-2.0], [0.5]]) + 7
    assert np.allclose(ridge(rows, values, asked), expected, atol=0.05)
    noise = generator.normal(size=(40, 1))
    assert np.abs(ridge(rows, noise, asked) - noise.mean()).max() < 0.5


def example(place, text, answer):
    return Example(str(place), (np.zeros((32, 32, 3), np.uint8),), text, {answer: 1.0})


def test_mixtures_are_of_the_pools_own_questions_and_differ():
    like = {
        "ann": [example(i, "how many are there ?", "two") for i in range(40)],
        "bob": [example(i, "Is there one ?" if i % 2 else "why so ?", "yes") for i in range(40, 80)],
    }
    pool = Pool.of(like, 2)
    assert pool.kinds == ("how many", "is there") and pool.answers == ("two", "yes")
    assert pool.kind_shares(pool.examples).tolist() == [0.5, 0.25, 0.25]
    assert answer_shares(pool.examples, ("yes", "never")).tolist() == [0.5, 0.0]
    from feddat.example import ClientData

    data = ClientData("ann", "vqa", tuple(like["ann"]), (), (), ("two",))
    made = draw_mixtures(pool, 8, 20, data, 0)
    assert [len({e.id for e in one.train}) for one in made] == [20] * 8
    shares = np.array([pool.kind_shares(one.train)[0] for one in made])
    assert shares.min() < 0.3 and shares.max() > 0.7
    assert all(set(one.answers) == {a for e in one.train for a in e.answers} for one in made)


def only(data):
    """Return a client without questions that have an answer of the other client's."""
    kept = {
        split: tuple(e for e in data.split(split) if set(e.answers) & set(ANSWERS[data.name]))
        for split in ("train", "validation", "test")
    }
    return replace(data, answers=ANSWERS[data.name], **kept)


@pytest.mark.parametrize("method", ["fedavg", "feddat"])
def test_an_update_says_which_answers_a_client_has_and_the_sum_does_not(settings, tmp_path, method):
    # Heads that begin from words point the same way at every client; random ones hide which answer is which.
    experiment = Experiment(settings(method=method, rounds=1, train__epochs=4, head__init="words"))
    own = [only(data) for data in load_clients(experiment.settings)]
    trace = replay(experiment, tmp_path / "run", change=lambda clients: own)
    candidates, _ = draw_candidates(experiment.settings, trace.federation.data, 8, 0, 0)
    found = infer(experiment.settings, trace, candidates, 32, 0, tmp_path / "shadows", lambda *told: None)
    assert (found["answers"], found["clients"], found["shadow_clients"]) == (6, 2, 32)
    auc = {source: row["answers_auc"][0] for source, row in found["sources"].items()}
    assert auc["server"] > 0.9 > 0.75 > max(auc["sum"], auc["guess"]), auc
    # Counts are exact, unless the client keeps them back.
    assert found["counts"]["scores"] == found["counts"]["counts"] == {"answers": [2, 2], "examples": [2, 2]}
    assert found["counts"]["none"]["examples"][0] < 2
