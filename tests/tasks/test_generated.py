from math import log

import pytest
import torch

from feddat.example import DataError, Example
from feddat.tasks.generated import answer_loss, answer_shares, token_losses


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
    """Two answers of two tokens over two words, the second one's last place padding."""
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
