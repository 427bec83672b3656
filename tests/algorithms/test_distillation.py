import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.algorithms.distillation import distillation_loss, ramp

# Teacher probabilities (3/4, 1/4) against student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2).
KNOWN = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)


def test_hand_computed_at_temperature_one():
    student = torch.zeros(1, 2)
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(KNOWN, abs=1e-6)


def test_temperature_divides_logits_and_its_square_multiplies():
    student = torch.zeros(1, 2)
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(4 * KNOWN, abs=1e-6)


def test_direction_is_from_teacher_to_student():
    student = torch.tensor([[math.log(3.0), 0.0]])
    teacher = torch.zeros(1, 2)
    expected = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(expected, abs=1e-6)
    assert expected != pytest.approx(KNOWN, abs=1e-3)


def test_mean_over_batch_not_over_classes():
    student = torch.zeros(2, 2)
    teacher = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(KNOWN / 2, abs=1e-6)


def test_token_logits_sum_over_positions_and_mean_over_batch():
    student = torch.zeros(2, 3, 2)
    teacher = torch.zeros(2, 3, 2)
    teacher[0, 0, 0] = teacher[0, 2, 0] = teacher[1, 1, 0] = math.log(3.0)
    assert distillation_loss(student, teacher, 1.0).item() == pytest.approx(3 * KNOWN / 2, abs=1e-6)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert distillation_loss(student, teacher, 1.0, mask).item() == pytest.approx(2 * KNOWN / 2, abs=1e-6)


def test_gradient_is_closed_form_for_student_and_none_for_teacher():
    student = torch.tensor([[0.4, -1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, -0.5]], dtype=torch.float64, requires_grad=True)
    distillation_loss(student, teacher, 3.0).backward()
    expected = 3.0 * (torch.softmax(student / 3, -1) - torch.softmax(teacher / 3, -1))
    torch.testing.assert_close(student.grad, expected.detach(), atol=1e-12, rtol=0)
    assert teacher.grad is None


@settings(max_examples=50)
@given(st.lists(st.floats(-30, 30), min_size=3, max_size=3), st.floats(0.5, 10))
def test_zero_only_between_equals(logits, temperature):
    a = torch.tensor([logits], dtype=torch.float64)
    assert abs(distillation_loss(a, a + 7.0, temperature).item()) < 1e-9
    b = a.clone()
    b[0, 0] += 1.0
    apart = (torch.softmax(b / temperature, -1) - torch.softmax(a / temperature, -1)).abs().sum().item()
    # Pinsker's inequality: KL >= (difference in L1)² / 2.
    assert distillation_loss(a, b, temperature).item() >= temperature**2 * apart**2 / 2 - 1e-9


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(2, 4\)"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    with pytest.raises(ValueError, match="mask"):
        distillation_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), 1.0, torch.ones(2, 4, dtype=torch.bool))


def test_ramp():
    assert ramp(0.5, 1, 0) == 0.5
    assert ramp(0.5, 2, 4) == pytest.approx(0.5 * math.exp(-1.25))
    assert ramp(0.5, 4, 4) == 0.5
    assert ramp(0.5, 9, 4) == 0.5
    values = [ramp(1.0, t, 10) for t in range(1, 12)]
    assert values == sorted(values)
