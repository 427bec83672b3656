"""Grids with runs that lack a client's score: no choice and no mean treats them like complete ones."""

import json

import pytest

from feddat.experiment import Newcomers, Search, Study, compare, run_study
from feddat.experiment.grids.newcomers import _joined
from feddat.experiment.grids.record import RunRecord
from feddat.experiment.grids.tuning import search_each
from feddat.experiment.single.rounds import Service
from feddat.report import record as records

RATES = Search({"train.lr": (0.01, 0.02)})


@pytest.fixture
def lose(monkeypatch, no_workers):
    """Return a function that chooses the runs that end without bob, who is the harder client of the two."""
    summary, wanted = Service._summary, []

    def without(self, *arguments):
        found = summary(self, *arguments)
        found |= {"clients": {"ann": {"score": 80.0}, "bob": {"score": 20.0}}, "mean": 50.0}
        if not wanted[-1](self.config):
            return found
        return found | {"clients": {"ann": {"score": 80.0}}, "mean": 80.0, "missing": ["bob"]}

    monkeypatch.setattr(Service, "_summary", without)
    return wanted.append


def test_a_comparison_and_its_record(make_config, lose, tmp_path):
    lose(lambda config: config.seed == 1)
    file = tmp_path / "r.jsonl"
    comparison = compare(make_config(name="c", rounds=1), ["local"], [0, 1], record=RunRecord(file))
    assert (comparison["methods"]["local"]["mean"], comparison["methods"]["local"]["runs"]) == (50.0, 1)
    lines = [json.loads(line)["summary"] for line in file.read_text().splitlines()]
    assert [(line["seed"], line["missing"], line["not_shared"]) for line in lines] == [(0, [], []), (1, ["bob"], [])]
    told = "Clients without a score: Local only, seed 1: bob."
    assert told in records.record_markdown(records.read_record(file))


def test_a_search(make_config, lose, caplog):
    config = make_config(name="c", rounds=1)
    lose(lambda config: config.train.lr == 0.02)
    chosen = search_each({"": config}, ["local"], RATES, jobs=1)[""]
    assert (chosen["scores"], chosen["best"]) == ({"local": {"train.lr=0.01": 50.0}}, {"local": {"train.lr": 0.01}})
    assert "search: local with train.lr=0.02 has no score of bob, so it is not chosen" in caplog.messages
    # Where all points of a method lack the client, they are alike.
    lose(lambda config: True)
    chosen = search_each({"": config}, ["local"], RATES, jobs=1, overwrite=True)[""]
    assert chosen["scores"] == {"local": {"train.lr=0.01": 80.0, "train.lr=0.02": 80.0}}


def test_a_search_over_the_clients_compares_points_of_the_same_clients(make_config):
    wanted = Search({"split_clients": (1, 2)})
    found = {
        name: {"mean": 40.0 + run.split_clients, "clients": {key: {} for key in ["ann", "bob"][: run.split_clients]}}
        for name, run in wanted.runs(make_config(), ["local"]).items()
    }
    assert wanted.choose(["local"], found, None)["best"] == {"local": {"split_clients": 2}}


def test_a_study(make_config, lose):
    lose(lambda config: config.train.lr == 0.2)
    study = Study.parse("train.lr=0.1,0.2")
    config = make_config(name="s", rounds=1)
    result = run_study(study, study.plans(config, ["local"], [0]))
    assert [(entry["point"], entry["score"]) for entry in result["records"]] == [("0.1", 50.0)]
    said = "Left out, since they lack the score of a client that others have: Local only, seed 0 at 0.2: bob."
    assert result["notes"] == [said]
    assert (config.runs_dir / "s" / "study.md").read_text().count(said) == 1


def test_newcomers(make_config):
    plan = Newcomers(make_config(name="n"), ["local"], [0, 1], 1, ["ann", "bob"])
    scored = {
        f"{client}/local-s{seed}": {"clients": {client: {"score": 80.0}}}
        for client, seed in (("ann", 0), ("ann", 1), ("bob", 0))
    }
    whole, part = _joined(plan, scored)
    assert (whole["mean"], whole["missing"]) == (80.0, [])
    assert (part["mean"], part["missing"]) == (None, ["bob"])
