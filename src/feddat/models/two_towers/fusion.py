"""Fuse the two streams of a two-tower model into one feature per view (``fusion.kind``).

``product`` concatenates both towers' embeddings and their elementwise product; it has no parameters. ``transformer``
lets a class token read all tokens of both towers through a few layers. These layers train with the adapters, either as
a personal part like the head, or as a shared part like the adapter (``fusion.side``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feddat.models.base import Backbone

#: Transformer layers.
LAYERS = 2
#: Standard deviation of the initial weights, as in BERT.
INIT_STD = 0.02


@runtime_checkable
class FusedBackbone(Backbone, Protocol):
    """A backbone with two streams, whose features a personal module can pool.

    In that case ``feature_dim`` is the width of the module's output.
    """

    def fuse(self, kind: str, side: str) -> None:
        """Choose how the streams are fused. Call this before adapters are added to the model.

        Args:
            kind: ``product`` or ``transformer``.
            side: side of a transformer, ``personal`` or ``shared``.
        """
        ...

    def personal_fusion(self) -> nn.Module | None:
        """Return a new trainable module from :meth:`features` (N, L, d) to pooled features (N, feature_dim).

        Weights come from torch's global generator. ``None`` if features are already pooled.
        """
        ...


def product_fusion(text: Tensor, image: Tensor) -> Tensor:
    """Return [t, v, t·v], shape (N, 3d), for embeddings (N, d) scaled to length √d, so that entries are of order 1."""
    text, image = (F.normalize(part, dim=-1) * part.shape[-1] ** 0.5 for part in (text, image))
    return torch.cat([text, image, text * image], dim=-1)


class FusionTransformer(nn.Module):
    """Pre-LN transformer layers, with GELU and no dropout, in which a class token reads the tokens of both towers.

    Tokens are (N, L, d), text before image; rows of zeros are padding.

    Args:
        width: width d of the tokens.
        image_tokens: number of image tokens, which come last.
        head_width: width of each attention head; if it does not divide d, there is one head.
    """

    def __init__(self, width: int, image_tokens: int, head_width: int = 64) -> None:
        super().__init__()
        self.image_tokens = image_tokens
        self.class_token = nn.Parameter(torch.empty(width))
        self.types = nn.Parameter(torch.empty(2, width))
        self.entry = nn.LayerNorm(width)
        heads = width // head_width if width % head_width == 0 else 1
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(LAYERS)
        )
        self.exit = nn.LayerNorm(width)
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw matrices and tokens from N(0, 0.02²) on the CPU; set biases to 0 and LayerNorm scales to 1."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.LayerNorm) and name == "weight":
                    parameter.fill_(1.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, INIT_STD, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the last state of the class token, (N, d)."""
        padding = F.pad((tokens == 0).all(dim=-1), (1, 0), value=False)
        text = tokens.shape[1] - self.image_tokens
        types = torch.cat([self.types[:1].expand(text, -1), self.types[1:].expand(self.image_tokens, -1)])
        states = torch.cat([self.class_token.expand(len(tokens), 1, -1), self.entry(tokens) + types], dim=1)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        return cast(Tensor, self.exit(states[:, 0]))


class WeightedFusions(nn.Module):
    """Weighted sum of several fusions.

    Args:
        fusions: fusion modules of the same size.
        weights: one weight per fusion.
    """

    def __init__(self, fusions: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)
        self.weights = list(weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return pooled features, (N, d)."""
        pooled = [weight * fusion(tokens) for fusion, weight in zip(self.fusions, self.weights, strict=True)]
        return torch.stack(pooled).sum(dim=0)
