"""Every method with every server rule and every sharing of metrics runs, or is refused at once."""

import typing
from dataclasses import replace

import pytest

from feddat.algorithms import ALGORITHMS
from feddat.app.checkpoint import ServerState
from feddat.app.client import Site, client_name, make_client_app
from feddat.app.grid import InProcessGrid
from feddat.app.roster import Roster
from feddat.app.rules import make_rule
from feddat.app.server import make_server_app
from feddat.app.strategy import AdapterStrategy
from feddat.client.trainer import Participant
from feddat.config import SHARING, ConfigError
from feddat.config.sections import ServerConfig
from feddat.experiment import Experiment
from feddat.experiment.single.federation import load_federation
from feddat.experiment.single.folder import RunFolder

RULES = typing.get_args(ServerConfig.model_fields["rule"].annotation)
#: Three clients are the fewest with which every rule works.
CLIENTS = ("ann", "bob", "cid")
OPTIONS = {"fedtrimmedavg": {"beta": 0.34}, "multikrum": {"num_nodes_to_select": 2}}


def refused(method: str, rule: str, sharing: str, weighting: str) -> bool:
    """Return whether the documentation excludes this combination."""
    algorithm = ALGORITHMS[method]
    has_its_own = algorithm.server is not None or not algorithm.communicates
    reads = "scores" if rule == "qfedavg" else "counts" if weighting == "examples" else "none"
    needs_equal = method in ("fedalt", "feddyn", "fedmosaic", "fedlease", "hilora") and weighting == "examples"
    return (rule != "mean" and has_its_own) or SHARING.index(sharing) < SHARING.index(reads) or needs_equal


@pytest.fixture
def settings(make_config):
    ann, bob = make_config().clients.values()
    clients = dict(zip(CLIENTS, (ann, bob, bob), strict=True))

    def make(method, rule="mean", sharing="scores", weighting="equal"):
        return make_config(
            method=method,
            rounds=1,
            clients=clients,
            eval__curve_split="test",
            train__steps=1,
            share_metrics=sharing,
            server__rule=rule,
            server__options=OPTIONS.get(rule, {}),
            server__weighting=weighting,
            name="-".join((method, rule, sharing, weighting)),
        )

    return make


@pytest.fixture
def each_client_works_once(monkeypatch):
    """Let each client train and answer once per method; in round 1, the result depends on nothing else."""
    known = {}

    def once(name):
        real = getattr(Participant, name)

        def method(self, *given, **named):
            key = (name, self.config.method, self.name)
            if key not in known:
                known[key] = real(self, *given, **named)
            return known[key]

        monkeypatch.setattr(Participant, name, method)

    once("fit")
    once("evaluate")


@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_rule_and_what_is_shared(settings, each_client_works_once, tmp_path, method):
    here = load_federation(Experiment(settings(method)).settings, tmp_path)
    sites, participants = {name: here.site(name) for name in here.participants}, list(here.participants)
    shared, algorithm = here.foundation.initial_shared(), here.foundation.algorithm
    for rule in RULES:
        for sharing in SHARING:
            for weighting in ("equal", "examples") if rule in ("mean", "fedadam") else ("equal",):
                what = f"{method}, {rule}, {sharing}, {weighting}"
                config = settings(method, rule, sharing, weighting)
                if refused(method, rule, sharing, weighting):
                    with pytest.raises(ConfigError, match=r"^(server\.\w+|share_metrics): "):
                        Experiment(config).run()
                    assert not (config.run_dir / "config.yaml").exists(), what
                    continue

                def site(context, run, sharing=sharing):
                    found = sites[client_name(context)]
                    return Site(replace(found.who, sharing=sharing), found.works, found.model)

                run = Experiment(config).settings
                events = []
                strategy = AdapterStrategy(
                    seed=0,
                    rule=make_rule(run, algorithm, len(participants)),
                    shapes=here.foundation.shared_shapes(),
                    routes=here.foundation.routes(final=True),
                    weighting=weighting,
                    notify=events.append,
                    roster=Roster(central=algorithm.centralised),
                    logs=algorithm.logs,
                    logs_below_zero=algorithm.logs_below_zero,
                )
                state = ServerState(dict(shared))
                app = make_server_app(strategy, state, rounds=1, evaluation=run.eval, notify=events.append)
                app(InProcessGrid(make_client_app(site), participants), None)
                assert (state.round, state.failed, state.refused) == (1, 0, 0), what
                assert state.shared.keys() == shared.keys()
                fits = [event["metrics"] for event in events if event["event"] == "fit"]
                assert ["loss" in metrics for metrics in fits] == [sharing == "scores"] * len(participants), what
                scored = {event["client"] for event in events if event["event"] == "eval" and event["scores"]}
                assert scored == (set(CLIENTS) if sharing == "scores" else set()), what


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("rule", ["mean", "fedmedian", "qfedavg"])
def test_a_whole_run(settings, rule, sharing):
    config = settings("feddat", rule, sharing)
    if refused("feddat", rule, sharing, "equal"):
        with pytest.raises(ConfigError, match=r"^share_metrics: "):
            Experiment(config).run()
        return
    summary = Experiment(config).run()
    assert (summary["failed"], summary["refused"]) == (0, 0)
    assert list(summary["clients"]) == (list(CLIENTS) if sharing == "scores" else [])
    lines = [line for line in RunFolder(config.run_dir).read_metrics() if line.get("split") == "train"]
    assert ["loss" in line["metrics"] for line in lines] == [sharing == "scores"] * 3


@pytest.mark.parametrize(
    ("sharing", "values", "reason"),
    [
        ("counts", {"server__rule": "qfedavg"}, "server.rule qfedavg weighs clients by their training losses"),
        ("none", {"method": "qfedavg"}, "server.rule qfedavg weighs clients by their training losses"),
        ("none", {"server__weighting": "examples"}, "server.weighting examples weighs clients by their numbers"),
    ],
)
def test_the_reason_names_both_settings(make_config, sharing, values, reason):
    with pytest.raises(ConfigError, match=rf"^share_metrics: {sharing}, but {reason}"):
        Experiment(make_config(share_metrics=sharing, **values))


def test_messages_that_memory_has_no_room_for_are_refused_before_the_folder_is_touched(make_config, monkeypatch):
    monkeypatch.setattr("feddat.app.limits._LARGE", 0)
    monkeypatch.setattr("feddat.experiment.single.rounds.free_memory", lambda: 2**10)
    config = make_config()
    with pytest.raises(ConfigError, match=r"^memory: with messages of "):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()
