"""Every method with every server rule and everything that clients may keep back: it runs, or is refused at once."""

import typing

import pytest

from feddat.algorithms import ALGORITHMS
from feddat.client.trainer import Participant
from feddat.config import SHARING, ConfigError
from feddat.config.sections import ServerConfig
from feddat.experiment import Experiment
from feddat.experiment.federation import Federation
from feddat.experiment.folder import RunFolder
from feddat.experiment.serving import Service

RULES = typing.get_args(ServerConfig.model_fields["rule"].annotation)
#: Of three clients, the fewest with which every rule can do its part.
CLIENTS = ("ann", "bob", "cid")
OPTIONS = {"fedtrimmedavg": {"beta": 0.34}, "multikrum": {"num_nodes_to_select": 2}}


def refused(method: str, rule: str, sharing: str, weighting: str) -> bool:
    """What the documentation says does not go together."""
    algorithm = ALGORITHMS[method]
    has_its_own = algorithm.server is not None or not algorithm.communicates
    reads = "scores" if rule == "qfedavg" else "counts" if weighting == "examples" else "none"
    needs_equal = method == "fedalt" and weighting == "examples"
    return (rule != "mean" and has_its_own) or SHARING.index(sharing) < SHARING.index(reads) or needs_equal


@pytest.fixture
def each_client_works_once(monkeypatch):
    """Let clients train and answer in the first run of a method alone: what they do in round 1 depends on nothing else.

    What is made of it (messages, rule, files) is each run's own.
    """
    known = {}

    def once(owner, name, key):
        real = getattr(owner, name)

        def method(self, *given, **named):
            if (name, *key(self, *given)) not in known:
                known[name, *key(self, *given)] = real(self, *given, **named)
            return known[name, *key(self, *given)]

        monkeypatch.setattr(owner, name, method)

    once(Participant, "fit", lambda self, *given: (self.config.method, self.name))
    once(Participant, "evaluate", lambda self, *given: (self.config.method, self.name))
    once(
        Federation,
        "_member",
        lambda self, name: (self.foundation.config.method, self.foundation.config.share_metrics, name),
    )
    monkeypatch.setattr(Service, "_show_answers", lambda *given: None)
    monkeypatch.setattr("feddat.report.write_report", lambda *given: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("method", ALGORITHMS)
def test_a_rule_and_what_is_shared(make_config, each_client_works_once, method):
    ann, bob = make_config().clients.values()
    clients = dict(zip(CLIENTS, (ann, bob, bob), strict=True))
    for rule in RULES:
        for sharing in SHARING:
            for weighting in ("equal", "examples") if rule in ("mean", "fedadam") else ("equal",):
                what = f"{method}, {rule}, {sharing}, {weighting}"
                config = make_config(
                    method=method,
                    rounds=1,
                    clients=clients,
                    eval__curve_split="test",
                    train__steps=1,
                    share_metrics=sharing,
                    server__rule=rule,
                    server__options=OPTIONS.get(rule, {}),
                    server__weighting=weighting,
                    name=what.replace(", ", "-"),
                )
                if refused(method, rule, sharing, weighting):
                    with pytest.raises(ConfigError, match=r"^(server\.\w+|share_metrics): "):
                        Experiment(config).run()
                    assert not (config.run_dir / "config.yaml").exists(), what
                    continue
                summary = Experiment(config).run()
                assert (summary["failed"], summary["refused"]) == (0, 0), what
                assert list(summary["clients"]) == (list(CLIENTS) if sharing == "scores" else []), what
                lines = RunFolder(config.run_dir).read_metrics()
                losses = ["loss" in line["metrics"] for line in lines if line["split"] == "train"]
                assert losses == [sharing == "scores"] * (1 if method == "central" else 3), what


@pytest.mark.parametrize(
    ("sharing", "settings", "reason"),
    [
        ("counts", {"server__rule": "qfedavg"}, "server.rule qfedavg weighs clients by their training losses"),
        ("none", {"method": "qfedavg"}, "server.rule qfedavg weighs clients by their training losses"),
        ("none", {"server__weighting": "examples"}, "server.weighting examples weighs clients by their numbers"),
    ],
)
def test_the_reason_names_both_settings(make_config, sharing, settings, reason):
    with pytest.raises(ConfigError, match=rf"^share_metrics: {sharing}, but {reason}"):
        Experiment(make_config(share_metrics=sharing, **settings))


def test_messages_that_memory_has_no_room_for_are_refused_before_the_folder_is_touched(make_config, monkeypatch):
    monkeypatch.setattr("feddat.app.limits._LARGE", 0)
    monkeypatch.setattr("feddat.experiment.serving.free_memory", lambda: 2**10)
    config = make_config()
    with pytest.raises(ConfigError, match=r"^memory: with messages of "):
        Experiment(config).run()
    assert not (config.run_dir / "config.yaml").exists()
