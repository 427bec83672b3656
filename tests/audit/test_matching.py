"""Gradient matching: its measures on small tensors, and attacks on messages of the real client."""

import pytest
import torch

from feddat.audit import matching
from feddat.audit.message import Target, ask, received, unaltered
from feddat.audit.replay import flat
from feddat.experiment import Experiment, load_clients


def test_correlation_is_that_of_every_pair():
    one = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.0, 1.0]])
    other = torch.tensor([[10.0, 20.0, 30.0], [3.0, 2.0, 1.0]])
    assert torch.allclose(matching.correlation(one, other), torch.tensor([[1.0, -1.0], [0.0, 0.0]]), atol=1e-6)


def test_total_variation_is_the_mean_step_between_neighbours():
    picture = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    assert matching.total_variation(picture).item() == 1.0
    assert matching.total_variation(torch.ones(1, 3, 4, 4)).item() == 0.0


@pytest.fixture
def client(settings):
    experiment = Experiment(settings())
    clients = load_clients(experiment.settings)
    return Target(experiment.settings, tuple(clients), clients[0].test[:16])


@pytest.mark.parametrize(("batch", "steps"), [(1, 1), (2, 4)])
def test_true_data_has_the_gradient_of_the_message(client, tmp_path, batch, steps):
    asked, known = ask(client, "obeys", batch, steps, matching.changes(steps), "bottleneck"), list(client.known)
    with received(asked, tmp_path, unaltered, lambda federation, shared: shared) as message:
        invented = matching.Invented.start(message, known, True, 0)
        start = invented.fit(-flat(message.update), 1)
        invented = matching.Invented.start(message, known, True, 0)
        invented.pictures.data.copy_(invented.truth["pixel_values"])
        assert invented.compared().correlations.min() > 0.999
        # A random model's gradients are much alike, but the true data's gradient is far closer than the start's.
        assert 1 - invented.fit(-flat(message.update), 1) < 0.2 * (1 - start)


def test_a_picture_to_a_known_question_comes_closer(client, tmp_path):
    row = matching.attack(client, 150, True, 1, 1, "obeys", tmp_path / "a")
    start, reached = row["correlation"]
    assert reached > start + 0.05 and row["matched"] > 0.995 and row["words"] == [5, 5, 5]
    refused = matching.attack(client, 150, True, 8, 4, "policy", tmp_path / "b")
    assert "min_examples" in refused["refused"] and refused["recovered"] == 0
