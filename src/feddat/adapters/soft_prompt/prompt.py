"""The prompt tokens, re-parametrised as in prefix tuning (Li and Liang 2021, arXiv 2101.00190, section 4.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: The inner width of the re-parametrising network is the model's width divided by this.
REDUCTION = 4


class Prompt(nn.Module):
    """Tokens for one input of the model, float32.

    Args:
        length: number of tokens.
        width: d, the model's hidden size.
        device: the device of the tokens.
    """

    def __init__(self, length: int, width: int, device: torch.device) -> None:
        super().__init__()
        options: dict[str, Any] = {"device": device, "dtype": torch.float32}
        self.tokens = nn.Parameter(torch.empty(length, width, **options))
        self.down = nn.Linear(width, width // REDUCTION, **options)
        self.up = nn.Linear(width // REDUCTION, width, **options)
        self.reset(None)

    def forward(self) -> Tensor:
        """Return the tokens that enter the model, (length, d)."""
        prompt: Tensor = self.up(self.down(self.tokens).tanh())
        return prompt

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None) -> None:
        """Draw tokens from N(0, 1), and weights and biases uniformly in ±1/√fan-in, as torch does by default."""
        self.tokens.copy_(torch.empty(self.tokens.shape).normal_(generator=generator))
        for linear in (self.down, self.up):
            bound = linear.in_features**-0.5
            for parameter in linear.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator))
