from math import log

import pytest
import torch

from feddat.example import DataError, Example
from feddat.tasks.generated import answer_loss, answer_shares, soft_token_losses, token_losses


def shares(answers):
    return answer_shares(Example("7", (), "?", answers=answers))


def test_shares_are_scores_over_their_sum():
    assert shares({"red": 0.9, "blue": 0.3}) == pytest.approx({"red": 0.75, "blue": 0.25})
    assert shares({"red": 1.0}) == {"red": 1.0}
    assert shares({"red": 0.0}) == {"red": 0.0}


def test_no_answers_is_an_error():
    with pytest.raises(DataError, match="example 7: no answers"):
        shares({})


def test_the_loss_by_hand():
    """Two answers of two tokens over two words; the second answer's last place is padding."""
    sure = log(3)  # p = 3/4 and 1/4
    logits = torch.tensor([[[sure, 0.0], [0.0, 0.0]], [[0.0, sure], [5.0, 0.0]]])
    tokens, mask = torch.tensor([[0, 1], [0, 0]]), torch.tensor([[True, True], [True, False]])
    expected = [[log(4 / 3), log(2)], [log(4), 0.0]]
    assert token_losses(logits, tokens, mask).tolist() == [pytest.approx(row) for row in expected]
    loss = answer_loss(logits, tokens, mask, torch.tensor([0.75, 0.25]), questions=2)
    assert loss.item() == pytest.approx((0.75 * (log(4 / 3) + log(2)) + 0.25 * log(4)) / 2)


def test_bf16_logits_lose_nothing_in_the_sum():
    logits = torch.tensor([[[2.0, 1.0, 0.5]]], dtype=torch.bfloat16)
    tokens, mask = torch.tensor([[1]]), torch.ones(1, 1, dtype=torch.bool)
    assert token_losses(logits, tokens, mask).equal(token_losses(logits.float(), tokens, mask))


def test_soft_targets_by_hand():
    # p = (½, ½) and q = (¾, ¼) at the first place; the second is padding.
    logits, teacher = torch.zeros(1, 2, 2), torch.tensor([[[log(3.0), 0.0], [50.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    assert soft_token_losses(logits, teacher, mask).tolist() == [[pytest.approx(log(2)), 0.0]]
    logits[0, 0, 0] = log(3.0)  # p = q: what is left is q's entropy
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert soft_token_losses(logits, teacher, mask).tolist() == [[pytest.approx(entropy), 0.0]]
    tokens, weights = torch.tensor([[1, 0]]), torch.tensor([0.5])
    expected = 0.5 * (0.6 * -log(0.25) + 0.4 * entropy) / 2
    assert answer_loss(logits, tokens, mask, weights, 2, teacher, 0.4).item() == pytest.approx(expected)
