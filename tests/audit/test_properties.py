"""What messages reveal about a client's data as a whole: on small arrays, and on a mini federation."""

from dataclasses import replace

import numpy as np

from feddat.audit.candidates import draw_candidates
from feddat.audit.mixtures import Pool, draw_mixtures
from feddat.audit.properties import answer_shares, infer, ridge
from feddat.audit.replay import replay
from feddat.config import load_config
from feddat.example import ClientData, Example
from feddat.experiment import Experiment


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
    data = ClientData("ann", "vqa", tuple(like["ann"]), (), (), ("two",))
    made = draw_mixtures(pool, 8, 20, data, 0)
    assert [len({e.id for e in one.train}) for one in made] == [20] * 8
    shares = np.array([pool.kind_shares(one.train)[0] for one in made])
    assert shares.min() < 0.3 and shares.max() > 0.7
    assert all(set(one.answers) == {a for e in one.train for a in e.answers} for one in made)


def test_an_update_says_more_of_a_clients_answers_than_a_guess_and_the_sum_does_not(tmp_path):
    config = load_config(
        None, None, benchmark="mini/domain", method="fedavg", rounds=1, train_examples=60, test_examples=4, threads=1
    )
    experiment = Experiment(config, tmp_path / "own")
    trace = replay(experiment, tmp_path / "run")
    candidates, _ = draw_candidates(experiment.settings, trace.federation.data, 60, 0, 0)
    found = infer(experiment.settings, trace, candidates, 24, 0, tmp_path / "shadows", lambda *told: None)
    assert (found["clients"], found["shadow_clients"]) == (5, 24)
    sources = found["sources"]
    assert list(sources) == ["server", "sum", "losses", "scores", "guess"]
    auc = {source: row["answers_auc"][0] for source, row in sources.items()}
    assert auc["server"] > max(auc["sum"], auc["guess"]) + 0.05, auc
    assert sources["server"]["kind_error"] < sources["guess"]["kind_error"]
    # Counts are exact, unless the clients share none.
    assert found["counts"]["scores"] == found["counts"]["counts"] == {"answers": [5, 5], "examples": [5, 5]}
    assert found["counts"]["none"]["answers"][0] < 5


def test_what_a_run_does_not_share_is_not_read(settings, tmp_path):
    """Clients of different sizes: counts tell them, and without counts the attacker has one guess for all."""

    def shrunk(clients):
        return [replace(data, train=data.train[: 32 - 8 * place]) for place, data in enumerate(clients)]

    found = {}
    for level in ("scores", "none"):
        experiment = Experiment(settings(rounds=1, train__epochs=1, share_metrics=level))
        trace = replay(experiment, tmp_path / level, change=shrunk)
        candidates, _ = draw_candidates(experiment.settings, trace.federation.data, 16, 0, 0)
        folder = tmp_path / f"{level}-shadows"
        found[level] = infer(experiment.settings, trace, candidates, 6, 0, folder, lambda *told: None)
    assert found["scores"]["sources"].keys() - found["none"]["sources"].keys() == {"losses", "scores"}
    for counted in (one["counts"] for one in found.values()):
        assert counted["counts"]["examples"] == [2, 2] and counted["none"]["examples"][0] < 2
