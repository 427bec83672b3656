"""Whole audits: a leak that was planted is found, what is no leak is none, and the command says so by its exit code."""

import json
from dataclasses import replace

import pytest
import torch

from feddat.audit.canaries import make_canaries, with_canaries
from feddat.audit.candidates import draw_candidates
from feddat.audit.errors import AuditError
from feddat.audit.membership import CONTROL, attack, attacked_rounds, summarise
from feddat.audit.replay import replay
from feddat.config import load_config
from feddat.experiment import Experiment, load_clients


def test_a_run_that_learnt_by_heart_is_found_out_and_one_on_other_data_is_not(settings, tmp_path):
    experiment = Experiment(settings())
    trace = replay(experiment, tmp_path / "guilty")
    # What was seen adds up: the mean of both clients' updates is what the server made of the round.
    both = torch.stack([trace.update(1, name) for name in ("ann", "bob")])
    assert both.norm() > 0 and torch.allclose(both.mean(dim=0), trace.mean_update(1), atol=1e-6)
    clients = {name: kept_back(data) for name, data in trace.federation.data.items()}
    candidates, _ = draw_candidates(experiment.settings, clients, 30, 0, 0)

    def attacked(trace):
        found = attack(trace, candidates, ("server", "sum", "model"), 2, 0, lambda *told: None)
        return summarise(found, 0)

    guilty = attacked(trace)
    assert guilty["model"]["loss"]["auc"][1] > 0.65
    assert guilty["server"].keys() == {"cosine", "whitened", "others", "loss", "combined"}
    assert guilty["sum"].keys() == {"cosine", "whitened", "loss", "combined"}
    low, high = guilty[CONTROL]["loss"]["auc"][1:]
    assert low <= 0.5 <= high

    # The same settings on other questions: those asked about were never seen.
    innocent = attacked(replay(experiment, tmp_path / "innocent", change=lambda clients: list(map(swapped, clients))))
    for view in ("server", "sum", "model"):
        low, high = innocent[view]["loss"]["auc"][1:]
        assert low <= 0.5 <= high, view


def kept_back(data):
    """Return a client without the test questions that the swapped run trains on."""
    return replace(data, test=data.test[:-32])


def swapped(data):
    return replace(data, train=data.test[-32:])


def test_rounds_are_spread_over_a_run():
    assert attacked_rounds(range(1, 21), 5) == [1, 6, 11, 15, 20]
    assert attacked_rounds([1, 2], 5) == [1, 2] and attacked_rounds([1, 2, 3], 1) == [3]


def test_unused_questions_are_unused_and_of_the_same_kind():
    config = load_config(None, None, benchmark="mini/domain", train_examples=60, test_examples=4)
    clients = {data.name: data for data in load_clients(config)}
    candidates, canaries = draw_candidates(config, clients, 10, 4, 0)
    for name, those in candidates.items():
        used = {example.id for example in clients[name].train}
        assert {example.id for example in those.members} <= used
        groups = [those.non_members, those.shadow, those.reference, canaries[name]]
        ids = [example.id for group in groups for example in group]
        assert len(set(ids)) == len(ids) and used.isdisjoint(ids) and all(name.startswith("train") for name in ids)
        assert all(set(e.answers) & set(clients[name].answers) for group in groups for e in group)
        # A member's answer would be known without it as well.
        given = [answer for example in clients[name].train for answer in example.answers]
        assert all(given.count(answer) > 1 for example in those.members for answer in example.answers)
    with pytest.raises(AuditError, match=r"client sketch: .* expected at least 16; cap the training examples"):
        draw_candidates(config.model_copy(update={"split_clients": 2}), {"sketch": clients["sketch"]}, 10, 0, 0)
    few = replace(clients["sketch"], train=clients["sketch"].train[:1])
    with pytest.raises(AuditError, match="client sketch: 0 training questions whose answer another one has too"):
        draw_candidates(config, {"sketch": few}, 10, 0, 0)


def test_canaries_have_wrong_answers_and_a_coin_each():
    config = load_config(None, None, benchmark="mini/domain", train_examples=20, test_examples=4)
    data = load_clients(config)[0]
    made = make_canaries({data.name: data}, {data.name: data.train}, 0)[data.name]
    own = {tuple(example.images[0].flatten()): example.answers for example in data.train}
    for canary in (*made.inside, *made.outside):
        assert set(canary.answers) <= set(data.answers) and canary.answers != own[tuple(canary.images[0].flatten())]
    assert len(made.inside) + len(made.outside) == 20 and made.inside and made.outside
    (trained,) = with_canaries([data], {data.name: made})
    assert trained.train == (*data.train, *made.inside) and trained.answers == data.answers


def test_the_command_on_a_run_and_on_settings(settings, feddat, tmp_path):
    config = settings(train__epochs=1, rounds=1)
    Experiment(config).run()
    folder = config.run_dir
    before = sorted(path for path in folder.rglob("*"))
    few = ("--rounds", 1, "--examples", 10, "--canaries", 6, "--no-reconstruction")
    code, told, progress = feddat(
        "audit", folder, *few, "--json", "--max-auc", 1, "--max-tpr", 1, "--out", tmp_path / "a"
    )
    assert code == 0, progress
    found = json.loads(told)
    assert found["run"]["repeated"] is True and found["exceeded"] == []
    assert found["membership"].keys() == {"server", "sum", "control"}
    assert found["canaries"]["views"]["sum"]["canaries"] == 12
    assert json.loads((tmp_path / "a" / "audit.json").read_text()) == found
    assert "run, watched by its server: 0 of 1" in progress and "membership: 0 of 2" in progress
    assert sorted(path for path in folder.rglob("*")) == before, "the run's own folder is only read"

    file = tmp_path / "settings.yaml"
    file.write_text(config.to_yaml())
    quick = ("--rounds", 1, "--examples", 10, "--canaries", 0, "--views", "sum", "--no-reconstruction")
    code, told, progress = feddat("audit", "-c", file, "name=other", *quick, "--max-auc", 0)
    assert code == 3
    assert "above its limit: membership (sum, loss): AUC is" in progress
    page = tmp_path / "runs" / "other" / "audit" / "audit.html"
    assert str(page) in told and "Above the limits" in page.read_text()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--canaries", 0, "--max-epsilon", 1), "--max-epsilon: it is measured with canaries"),
        (("runs/a", "rounds=3"), "runs/a: expected the folder of a run alone"),
        (("nowhere",), "not a run folder"),
        (("--views", "godlike", "method=fedavg"), "view 'godlike': expected some of server, sum, model"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(feddat, arguments, reason):
    code, _, told = feddat("audit", *arguments)
    assert code == 2 and reason in told and told.count("\n") == 1
