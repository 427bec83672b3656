"""The attacker's per-example gradients are the same for a whole batch as for one example at a time."""

import pytest
import torch

from feddat.algorithms.base import MAIN_HEAD
from feddat.audit import probe
from feddat.experiment import Experiment, load_clients
from feddat.experiment.single.federation import build_federation


@pytest.mark.parametrize("peft", ["bottleneck", "lora"])
def test_gradients_of_a_batch_are_those_of_single_examples(settings, tmp_path, monkeypatch, peft):
    experiment = Experiment(settings(adapter__peft=peft, train__precision="fp32"))
    clients = load_clients(experiment.settings)
    federation = build_federation(experiment.settings, clients, tmp_path)
    foundation, member = federation.foundation, federation.owner("ann").members["ann"]
    attacker = probe.Probe(foundation, member)
    examples = attacker.encode(clients[0].train[:5])
    attacker.load(foundation.initial_shared())
    head = member.heads[MAIN_HEAD]
    together = attacker.gradients(examples, head)
    monkeypatch.setattr(probe, "KINDS", ())
    assert torch.allclose(together, attacker.gradients(examples, head), rtol=1e-4, atol=1e-6)
    assert together.shape[0] == 5 and (together.norm(dim=1) > 0).all()
