"""How the two streams of a two-tower model become one feature per view (``fusion.kind``).

``product`` puts both towers' embeddings and their elementwise product side by side; it has no parameters.
``transformer`` lets a class token read all tokens of both towers through a few layers that train with the adapters:
on the personal side like a head, or on the shared side with the adapter (``fusion.side``).
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
#: Standard deviation of the initial weights, BERT's.
INIT_STD = 0.02


@runtime_checkable
class FusedBackbone(Backbone, Protocol):
    """A backbone of two streams; a personal module may have to pool its features.

    With that, ``feature_dim`` is the width of what the module returns.
    """

    def fuse(self, kind: str, side: str) -> None:
        """Choose how the streams are fused; before adapters are put on the model.

        Args:
            kind: ``product``, or ``transformer``.
            side: of a transformer: ``personal`` or ``shared``.
        """
        ...

    def personal_fusion(self) -> nn.Module | None:
        """Return a new trainable module, from :meth:`features` (N, L, d) to pooled (N, feature_dim).

        Weights come from torch's global generator. ``None``: features are pooled already.
        """
        ...


def product_fusion(text: Tensor, image: Tensor) -> Tensor:
    """Return [t, v, t·v], shape (N, 3d), of embeddings (N, d), each scaled to length √d: entries are of the order 1."""
    text, image = (F.normalize(part, dim=-1) * part.shape[-1] ** 0.5 for part in (text, image))
    return torch.cat([text, image, text * image], dim=-1)


class FusionTransformer(nn.Module):
    """A class token over the tokens of both towers: pre-LN layers with GELU, no dropout.

    Tokens are (N, L, d), the text's before the image's; rows of zeros are padding.

    Args:
        width: d.
        image_tokens: number of image tokens, the last ones.
        head_width: of each attention head; one head where it does not divide d.
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
        """Draw matrices and tokens from N(0, 0.02²) on the CPU; biases become 0, the norms' scales 1."""
        for module in self.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(module, nn.LayerNorm) and name == "weight":
                    parameter.fill_(1.0)
                elif name.endswith("bias"):
                    parameter.zero_()
                else:
                    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, INIT_STD, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the class token's last state, (N, d)."""
        padding = F.pad((tokens == 0).all(dim=-1), (1, 0), value=False)
        text = tokens.shape[1] - self.image_tokens
        types = torch.cat([self.types[:1].expand(text, -1), self.types[1:].expand(self.image_tokens, -1)])
        states = torch.cat([self.class_token.expand(len(tokens), 1, -1), self.entry(tokens) + types], dim=1)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        return cast(Tensor, self.exit(states[:, 0]))


class WeightedFusions(nn.Module):
    """Several fusions as one: the weighted sum of what each gives.

    Args:
        fusions: of one size.
        weights: one each.
    """

    def __init__(self, fusions: Sequence[nn.Module], weights: Sequence[float]) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)
        self.weights = list(weights)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return pooled features, (N, d)."""
        pooled = [weight * fusion(tokens) for fusion, weight in zip(self.fusions, self.weights, strict=True)]
        return torch.stack(pooled).sum(dim=0)
