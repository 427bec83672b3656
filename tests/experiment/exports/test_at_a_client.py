"""Exports from a deployment.

The server's folder has no client states. A client's machine has its own state and a copy of the server's folder.
"""

import shutil

import pytest
import yaml
from answers import of_run, questions, same_answers

import feddat
from feddat.adapters.peft_form import read_peft
from feddat.client.received import Received
from feddat.config import ConfigError
from feddat.experiment import Experiment
from feddat.experiment.single.federation import load_federation
from feddat.experiment.single.methods import resolve
from feddat.site import read_site
from two_clients import SIZES


@pytest.fixture
def machines(finished, world, tmp_path):
    """Return the original run, the server's folder, and ann's client.yaml, which has her state beside it."""
    run, server, site = finished(method="feddat"), tmp_path / "server", tmp_path / "site"
    shutil.copytree(run, server, ignore=shutil.ignore_patterns("clients"))
    shutil.copytree(run / "clients" / "ann", site / "state" / (run / "run-id").read_text().strip() / "ann")
    (site / "seals").mkdir()
    shutil.copy(run / "clients" / "ann" / ".seal.key", site / "seals" / f"{(run / 'run-id').read_text().strip()}.key")
    data = {split: str(world / "ann" / f"{split}.jsonl") for split in SIZES}
    own = {"client": "ann", "server": "127.0.0.1:1", "data": data, "model": str(world / "model")}
    (site / "client.yaml").write_text(yaml.safe_dump(own))
    return run, server, site / "client.yaml"


def test_a_client_exports_and_asks_its_own_model_at_home(machines, call, tmp_path, world, capsys):
    run, server, site = machines
    assert call("export", server, "--site", site, "--out", tmp_path / "ours") == 0
    same_answers(feddat.load(tmp_path / "ours").answers(questions(run)), of_run(run, "ann", questions(run)))
    one = ["--image", world / "ann" / "test0.png", "--question", "what is the color ?", "--top", "1"]
    capsys.readouterr()
    assert call("predict", "--run", server, "--site", site, *one) == 0
    assert capsys.readouterr().out.split()[0] == of_run(run, "ann", questions(run)[:1])[0][0][0]
    assert not (server / "clients").exists()


def test_the_server_has_the_shared_adapter(machines, call, tmp_path):
    run, server, _ = machines
    Experiment.open(run).export(tmp_path / "expected")
    assert call("export", server, "--out", tmp_path / "found") == 0
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_a_client_may_begin_with_an_exported_local_adapter(machines, tmp_path):
    """A client takes ``start_local`` from its own file; the run's settings name folders of the server."""
    run, _, site = machines
    Experiment.open(run).export(site.parent / "old", "ann", "local")
    site.write_text(site.read_text() + "start_local: old\n")
    config = resolve(Experiment.open(run).config.updated({"adapter.start": "server-only", "adapter.start_local": "no"}))
    own = read_site(site).applied(config)
    assert (own.adapter.start, own.adapter.start_local) == (None, site.parent.resolve() / "old")
    participant = load_federation(own, tmp_path / "new").participants["ann"]
    participant.answering(Received(Experiment.open(run)._latest()[1].shared, 1))
    found = participant.adapters.state("local")
    tensors = participant.adapters.peft_form().state(read_peft(site.parent / "old")[1])
    assert all(found[key].equal(tensors[key]) for key in tensors)
    assert found.keys() == tensors.keys()


def test_a_folder_that_is_not_there_stops_the_client_before_it_connects(machines, tmp_path):
    run, _, site = machines
    site.write_text(site.read_text() + "start_local: gone\n")
    own = read_site(site).applied(resolve(Experiment.open(run).config))
    with pytest.raises(ConfigError, match=r"adapter.start_local: folder .*gone: no adapter_config.json"):
        load_federation(own, tmp_path / "new")
