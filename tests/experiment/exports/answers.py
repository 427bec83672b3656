"""Helpers that return a run's answers and compare the answers of two models."""

import pytest

from feddat.experiment import Experiment
from feddat.experiment.single.foundation import answering_state


def of_run(run, client, examples, route=None):
    """Return the three likeliest answers of a client's model within the run, on a route or on its default route."""
    federation, state = Experiment.open(run)._latest()
    owner = federation.owner(client)
    received = answering_state(federation.foundation, state, owner.name)
    answering = owner.answering(received)
    return answering.likeliest(owner.members[client], examples, route or owner.routes(received.final)[0], 3)


def questions(run, client="ann"):
    return Experiment.open(run)._latest()[0].data[client].test


def same_answers(found, expected, within=2e-5):
    assert [[name for name, _ in row] for row in found] == [[name for name, _ in row] for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert [value for _, value in row] == pytest.approx([value for _, value in other], abs=within)
