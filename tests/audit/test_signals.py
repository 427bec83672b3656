"""Membership signals on small tensors."""

import pytest
import torch

from feddat.audit import signals


def test_a_gradient_that_an_update_goes_against_scores_one():
    gradients = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, 0.0]])
    assert signals.cosine(gradients, torch.tensor([-5.0, 0.0])).tolist() == [1.0, 0.0, -1.0, 0.0]


def test_whitening_is_the_inverse_covariance():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(6, 3, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0, 0.1])
    gradients = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    update = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    mean, covariance = reference.mean(dim=0), torch.cov(reference.T)
    ridge = 0.1 * covariance.trace() / 5
    expected = -(gradients - mean) @ torch.linalg.solve(covariance + ridge * torch.eye(3), update)
    found = signals.whitened(gradients, torch.stack([update, -update]), reference, 0.1)
    assert torch.allclose(found, torch.stack([expected, -expected]))
    with pytest.raises(ValueError, match="at least two"):
        signals.whitened(gradients, update[None], reference[:1])


def test_a_whitened_signal_finds_what_a_common_direction_hides():
    generator = torch.Generator().manual_seed(0)
    common = 20 * torch.nn.functional.normalize(torch.randn(200, generator=generator), dim=0)
    draw = torch.randn(120, 1, generator=generator) * common + torch.randn(120, 200, generator=generator)
    members, others, reference = draw[:20], draw[20:40], draw[40:]
    update = -members.mean(dim=0)

    def told_apart(score):
        return (score(members)[:, None] > score(others)[None]).float().mean().item()

    plain = told_apart(lambda part: signals.cosine(part, update))
    assert told_apart(lambda part: signals.whitened(part, update[None], reference)[0]) > max(0.9, plain + 0.1)


def test_other_clients_say_how_an_example_scores_anyway():
    own = torch.tensor([3.0, 3.0])
    others = torch.tensor([[1.0, 3.0], [-1.0, 1.0]])  # the means are 0 and 2; every score is 1 away from its mean
    assert signals.against_others(own, others).tolist() == [3.0, 1.0]


def test_scores_are_in_deviations_of_the_reference():
    assert signals.standardised(torch.tensor([5.0]), torch.tensor([1.0, 3.0])).tolist() == [3.0]
    assert signals.standardised(torch.tensor([5.0]), torch.tensor([1.0, 1.0])).tolist() == [4.0]


def test_an_update_of_adamw_is_read_in_its_own_units():
    # The first entry's gradient is a thousand times the second's; AdamW moves both equally far.
    reference = torch.tensor([[1000.0, 1.0], [-1000.0, -1.0]])
    found = signals.scaled(torch.tensor([[1000.0, -1.0]]), reference)
    assert found[0, 0].item() == pytest.approx(1, rel=0.01) and found[0, 1].item() == pytest.approx(-1 / 6, rel=0.01)


def test_calibration_takes_away_what_is_expected_anyway():
    own, expected = torch.tensor([5.0, 5.0]), torch.tensor([[1.0, 5.0], [3.0, 5.0]])
    assert signals.calibrated(own, expected, torch.tensor([2.0, 1.0])).tolist() == [1.5, 0.0]
