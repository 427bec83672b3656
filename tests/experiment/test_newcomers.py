"""Clients that are left out of a federation and join afterwards; ``only_clients`` chooses who takes part."""

import json

import pytest
import torch
from safetensors.torch import load_file

from feddat.cli import main
from feddat.config import ConfigError
from feddat.experiment import Experiment, Newcomers, load_clients, run_newcomers
from feddat.experiment.single.federation import participant_names
from feddat.report.newcomers import newcomers_markdown
from two_clients import files


@pytest.fixture
def three(world, make_config):
    """Return a function that makes settings with three clients."""
    own = files(world)
    clients = own | {"cid": own["bob"]}
    return lambda **values: make_config(**{"clients": clients, "head__lr": 0.1} | values)


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


# --- only_clients -----------------------------------------------------------------------------------------------------


def test_a_run_of_chosen_clients_is_a_run_of_the_others_files(three, world):
    chosen = Experiment(three(name="chosen", only_clients=["cid", "ann"])).run()
    clients = {name: spec for name, spec in three().clients.items() if name != "bob"}
    alone = Experiment(three(name="alone", clients=clients)).run()
    assert chosen["clients"] == alone["clients"] and list(chosen["clients"]) == ["ann", "cid"]


def test_benchmarks_too_have_only_the_chosen_clients(make_config):
    config = make_config(clients=None, benchmark="mini/scene", train_examples=2, test_examples=2)
    every = [client.name for client in load_clients(config)]
    some = config.updated({"only_clients": every[1:]})
    assert [client.name for client in load_clients(some)] == every[1:] and len(every) > 2
    assert participant_names(some) == sorted(every[1:])


def test_an_unknown_name_lists_the_clients(three):
    config = three(only_clients=["dan"])
    for read in (load_clients, participant_names):
        with pytest.raises(ConfigError, match="only_clients: 'dan' is unknown; the clients are ann, bob, cid"):
            read(config)
    with pytest.raises(ConfigError, match="only_clients"):
        three(only_clients=[])


# --- newcomers --------------------------------------------------------------------------------------------------------


def test_each_newcomer_starts_from_the_adapter_of_the_others(three, tmp_path, no_workers):
    plan = Newcomers.plan(three(name="late"), ["fedavg", "local"], [0], epochs=3)
    assert plan.clients == ["ann", "bob", "cid"]
    assert list(plan.federations()) == [f"without-{name}/fedavg-s0" for name in plan.clients]  # local sends nothing
    result = run_newcomers(plan, jobs=1)
    federation = plan.federations()["without-bob/fedavg-s0"]
    assert json.loads((federation.run_dir / "summary.json").read_text())["clients"].keys() == {"ann", "cid"}
    alone = plan.alone()["bob/fedavg-s0"]
    summary = json.loads((alone.run_dir / "summary.json").read_text())
    assert summary["clients"].keys() == {"bob"} and summary["rounds"] == 3
    # The newcomer received what the others' federation ended with.
    exported = adapter(Experiment(federation).export(tmp_path / "export", route="global"))
    started = adapter(alone.adapter.start)
    assert exported.keys() == started.keys() and all(torch.equal(exported[key], started[key]) for key in exported)
    (tried,) = [run for run in result["runs"] if run["method"] == "fedavg"]
    assert tried["clients"]["bob"] == summary["clients"]["bob"] and tried["clients"].keys() == set(plan.clients)
    assert tried["mean"] == pytest.approx(sum(next(iter(s.values())) for s in tried["clients"].values()) / 3)


def test_what_a_newcomer_learns_depends_on_the_others_adapter(three, no_workers):
    """Starting from the others' adapter ends elsewhere than starting from a random one."""
    plan = Newcomers.plan(three(name="late", rounds=4), ["fedavg"], [0], epochs=1, clients=["ann"])
    run_newcomers(plan, jobs=1)
    late = plan.alone()["ann/fedavg-s0"]
    fresh = late.updated({"adapter.start": None, "runs_dir": plan.folder / "fresh"})
    Experiment(fresh).run()
    ends = [adapter(next(iter(sorted(run.run_dir.glob("checkpoints/*/"))))) for run in (late, fresh)]
    assert any(not torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_newcomers_can_train_with_another_method(three, no_workers):
    """The rows stay those of the federations, and the start is theirs."""
    plan = Newcomers.plan(three(name="late"), ["feddat-2"], [0], epochs=1, clients=["ann"], train_as="fedavg")
    result = run_newcomers(plan, jobs=1)
    summary = json.loads((plan.alone()["ann/feddat-2-s0"].run_dir / "summary.json").read_text())
    assert summary["method"] == "fedavg" and result["runs"][0]["method"] == "feddat-2"
    assert result["runs"][0]["clients"] == summary["clients"]
    assert "trained as FedAvg" in newcomers_markdown(result) and "| FedDAT-2 |" in newcomers_markdown(result)
    with pytest.raises(ConfigError, match="central pools"):
        Newcomers.plan(three(), ["fedavg"], [0], train_as="central")
    with pytest.raises(ConfigError, match="local has no global adapter"):
        Newcomers.plan(three(), ["fedavg"], [0], train_as="local")


def test_a_method_without_a_whole_global_adapter_does_not_stop_the_others(three, no_workers):
    plan = Newcomers.plan(three(name="late", adapter__peft="lora"), ["fedsa-lora", "fedavg"], [0], 1, ["ann"])
    result = run_newcomers(plan, jobs=1)
    assert [run["method"] for run in result["runs"]] == ["fedavg"]
    assert list(result["failed"]) == ["without-ann/fedsa-lora-s0"]


def test_finished_runs_are_kept(three, no_workers):
    plan = Newcomers.plan(three(name="late"), ["fedavg"], [0], epochs=1, clients=["ann"])
    first, events = run_newcomers(plan, jobs=1), []
    assert run_newcomers(plan, 1, events.append) == first
    assert not any(event["event"] == "round" for event in events)


def test_who_cannot_be_a_newcomer(three, make_config):
    with pytest.raises(ConfigError, match="newcomer 'dan': expected some of ann, bob, cid"):
        Newcomers.plan(three(), ["fedavg"], [0], clients=["dan"])
    with pytest.raises(ConfigError, match="newcomers: 2 clients, expected at least 3"):
        Newcomers.plan(make_config(), ["fedavg"], [0])
    with pytest.raises(ConfigError, match="split_clients: 2, but newcomers are whole clients"):
        Newcomers.plan(three(split_clients=2), ["fedavg"], [0])
    with pytest.raises(ConfigError, match="central pools the data of all clients"):
        Newcomers.plan(three(), ["central"], [0])


def test_the_command_prints_and_reports_the_table(three, tmp_path, capsys, no_workers):
    config = three(name="late")
    (tmp_path / "c.yaml").write_text(config.to_yaml())

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        return end.value.code, capsys.readouterr()

    asked = ("newcomers", "-c", tmp_path / "c.yaml", "-m", "feddat,fedavg", "--clients", "bob", "--epochs", 1)
    code, told = run(*asked, "--seeds", 1, "--jobs", 1)
    assert code == 0 and "after 1 epoch:" in told.out and "FedDAT" in told.out
    result = json.loads((config.run_dir / "newcomers.json").read_text())
    code, told = run("report", config.run_dir, "--markdown")
    assert (code, told.out) == (0, newcomers_markdown(result))
    code, told = run("report", config.run_dir)
    assert code == 0 and told.out.strip() == str(config.run_dir / "newcomers.md")
    assert run("report", config.run_dir, "--json")[1].out.strip().startswith("{")
