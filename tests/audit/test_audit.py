"""Whole audits find a leak in a run that memorises, find none where there is none, and set the command's exit code."""

import json
from dataclasses import replace

import pytest
import torch

from feddat.audit.canaries import make_canaries, with_canaries
from feddat.audit.candidates import draw_candidates
from feddat.audit.errors import AuditError
from feddat.audit.membership import CONTROL, attack, attacked_rounds, summarise
from feddat.audit.replay import replay, same_as
from feddat.audit.shadow import ShadowClients
from feddat.config import load_config
from feddat.experiment import Experiment, load_clients

#: View -> the least AUC of the combined signal on a run that memorises. FedAvg and FedDAT reach 0.68 in sums.
LEAST = {"server": 0.7, "sum": 0.62, "model": 0.7}


@pytest.mark.parametrize("method", ["fedavg", "feddat", "feddat-mild"])
def test_a_run_that_learnt_by_heart_is_found_out_in_every_view(settings, tmp_path, method):
    experiment = Experiment(settings(method=method, adapter__reduction=1))
    trace = replay(experiment, tmp_path / "run")
    # The trace is consistent: the mean of both clients' updates is the server's update.
    both = torch.stack([trace.update(1, name) for name in ("ann", "bob")])
    assert both.norm() > 0 and torch.allclose(both.mean(dim=0), trace.mean_update(1), atol=1e-6)
    found = attacked(experiment, trace, trace.federation.data, tmp_path / "shadow")
    for view, least in LEAST.items():
        auc, low, _ = found[view]["combined"]["auc"]
        assert auc > least and low > 0.5, view
    # Calibration with shadow clients finds much more than the plain cosine.
    assert found["server"]["calibrated"]["auc"][0] > found["server"]["cosine"]["auc"][0] + 0.1
    low, high = found[CONTROL]["loss"]["auc"][1:]
    assert low <= 0.5 <= high
    assert found["server"].keys() == {"cosine", "whitened", "calibrated", "others", "loss", "combined"}
    assert found["sum"].keys() == {"cosine", "whitened", "calibrated", "loss", "combined"}
    assert found["model"].keys() == {"loss", "calibrated", "combined"}


def test_the_audit_repeats_a_run_with_secret_seeds_and_its_attackers_do_not_know_them(settings, tmp_path):
    experiment = Experiment(settings(adapter__reduction=1, privacy__secret_seeds=True))
    experiment.run(jobs=2)  # the clients' processes find the same keys
    trace = replay(experiment, tmp_path / "replay")
    assert same_as(experiment, trace)
    other = replay(Experiment(settings(adapter__reduction=1, privacy__secret_seeds=True, name="other")), tmp_path / "o")
    assert not same_as(experiment, other)
    candidates, _ = draw_candidates(experiment.settings, trace.federation.data, 30, 0, 0)
    shadows = ShadowClients(experiment.settings, trace, candidates, tmp_path / "shadow")
    owners = [(trace.federation.owner(name), shadows.federation.owner(name)) for name in ("ann", "bob")]
    assert all(own.store.seed(0) != shadow.store.seed(0) for own, shadow in owners)


def attacked(experiment, trace, clients, folder):
    """Return the figures of all views, on 30 members and 30 non-members of each client."""
    candidates, _ = draw_candidates(experiment.settings, clients, 30, 0, 0)
    found = attack(experiment.settings, trace, candidates, ("server", "sum", "model"), 4, folder, lambda *told: None)
    return summarise(found, 0)


def test_a_run_on_other_questions_is_not_found_out(settings, tmp_path):
    experiment = Experiment(settings(adapter__reduction=1))
    own = {data.name: data for data in load_clients(experiment.settings)}
    # The run trains on test questions that the attack never gets.
    trace = replay(experiment, tmp_path / "run", change=lambda clients: [swapped(data) for data in clients])
    found = attacked(experiment, trace, {name: kept_back(data) for name, data in own.items()}, tmp_path / "shadow")
    for view, signals in found.items():
        for signal, row in signals.items():
            low, high = row["auc"][1:]
            assert low <= 0.5 <= high, (view, signal)


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
        # Another training question has the same answer, so the answer alone does not give a member away.
        given = [answer for example in clients[name].train for answer in example.answers]
        assert all(given.count(answer) > 1 for example in those.members for answer in example.answers)
    with pytest.raises(AuditError, match=r"client sketch: .* expected at least 24; cap the training examples"):
        draw_candidates(config.model_copy(update={"split_clients": 2}), {"sketch": clients["sketch"]}, 10, 0, 0)
    few = replace(clients["sketch"], train=clients["sketch"].train[:1])
    with pytest.raises(AuditError, match="client sketch: 0 training questions share their answer with another one"):
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
    few = ("--rounds", 1, "--examples", 10, "--canaries", 6, "--properties", 4, "--no-reconstruction")
    code, told, progress = feddat(
        "audit", folder, *few, "--json", "--max-auc", 1, "--max-tpr", 1, "--out", tmp_path / "a"
    )
    assert code == 0, progress
    found = json.loads(told)
    assert found["run"]["repeated"] is True and found["exceeded"] == []
    assert found["membership"].keys() == {"server", "sum", "control"}
    assert found["canaries"]["views"]["sum"]["canaries"] == 12
    assert found["properties"]["sources"].keys() == {"server", "sum", "losses", "scores", "guess"}
    assert json.loads((tmp_path / "a" / "audit.json").read_text()) == found
    assert "run, watched by its server: 0 of 1" in progress and "membership: 0 of 3" in progress
    assert sorted(path for path in folder.rglob("*")) == before, "the run's own folder is only read"


@pytest.mark.parametrize("view", ["server", "sum"])
def test_a_limit_on_the_auc_guards_what_travels(settings, feddat, tmp_path, view):
    file = tmp_path / "settings.yaml"
    file.write_text(settings(adapter__reduction=1).to_yaml())
    few = ("--rounds", 4, "--examples", 30, "--canaries", 0, "--properties", 0, "--no-reconstruction")
    guarded = ("audit", "-c", file, *few, "--views", view, "--max-auc", 0.62)
    code, told, progress = feddat(*guarded, "name=leaks")
    assert code == 3 and f"above its limit: membership ({view}, combined): AUC is 0." in progress
    page = tmp_path / "runs" / "leaks" / "audit" / "audit.html"
    assert str(page) in told and "Above the limits" in page.read_text()

    # The same run passes under differential privacy.
    private = ("privacy.epsilon=1", "privacy.delta=1e-4", "privacy.noise_seed=1", "share_metrics=none")
    code, told, progress = feddat(*guarded, *private, "name=private")
    assert code == 0, progress
    assert "within the limits" in (tmp_path / "runs" / "private" / "audit" / "audit.html").read_text()


def test_a_limit_on_what_is_rebuilt_guards_the_runs_own_settings(settings, feddat, tmp_path):
    file = tmp_path / "settings.yaml"
    # With such an eps, steps are proportional to gradients.
    file.write_text(settings(rounds=1, train__epochs=1, train__lr=0.001, train__eps=1e-6).to_yaml())
    few = ("--rounds", 1, "--examples", 10, "--canaries", 0, "--properties", 0, "--matching", 0)
    guarded = ("audit", "-c", file, *few, "--max-reconstructed", 0)
    code, told, progress = feddat(*guarded, "name=leaks")
    assert code == 3 and "above its limit: reconstruction (patches, this run)" in progress
    told = " ".join(told.split())  # lines are as long as the terminal is wide
    assert "client with this run's settings" in told and "client with the default policy" in told
    private = ("privacy.epsilon=1", "privacy.delta=1e-4", "share_metrics=none")
    code, told, progress = feddat(*guarded, *private, "name=private")
    assert code == 0, progress


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--canaries", 0, "--max-epsilon", 1), "--max-epsilon: canaries measure it"),
        (("runs/a", "rounds=3"), "runs/a: expected only the folder of a run"),
        (("nowhere",), "not a run folder"),
        (("--views", "godlike", "method=fedavg"), "view 'godlike': expected some of server, sum, model"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_line(feddat, arguments, reason):
    code, _, told = feddat("audit", *arguments)
    assert code == 2 and reason in told and told.count("\n") == 1
