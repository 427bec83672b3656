"""CLIP and SigLIP as frozen backbones: a text tower and an image tower, from any Hugging Face folder of either.

Radford et al., arXiv 2103.00020 (CLIP); Zhai et al., arXiv 2303.15343 (SigLIP). Both towers end in a common space of
width d. CLIP projects the pooled states of each tower to it with a linear layer. If a transformer fuses the towers
(:mod:`feddat.models.two_towers.fusion`), the same layers project every token. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import CLIPModel, SiglipModel

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.encoding import encode_views
from feddat.models.folder import read_model_type
from feddat.models.two_towers.encoder import TwoTowersEncoder
from feddat.models.two_towers.fusion import FusionTransformer, product_fusion
from feddat.models.weights import load_weights

_STOCK = {"clip": CLIPModel, "siglip": SiglipModel}


class TwoTowers(nn.Module):
    """Both towers of a stock model, and a shared fusion module if there is one.

    Args:
        stock: a ``CLIPModel`` or ``SiglipModel``.

    Attributes:
        reads_tokens: whether the forward pass uses all tokens, rather than the embeddings and their product.
        fusion: module that pools the tokens; ``None`` if it is not part of the model.
    """

    base_model_prefix = ""  # PEFT reads this from every model with a transformers configuration

    def __init__(self, stock: Any) -> None:
        super().__init__()
        self.config = stock.config
        self.text_model = stock.text_model
        self.vision_model = stock.vision_model
        clip = self.config.model_type == "clip"
        self.text_projection = stock.text_projection if clip else nn.Identity()
        self.visual_projection = stock.visual_projection if clip else nn.Identity()
        self.reads_tokens = False
        self.fusion: nn.Module | None = None

    def forward(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """Return pooled features (N, F), or :meth:`tokens` (N, L, d) if a personal module pools them later."""
        if not self.reads_tokens:
            return product_fusion(*self.embeddings(input_ids, attention_mask, pixel_values))
        tokens = self.tokens(input_ids, attention_mask, pixel_values)
        return tokens if self.fusion is None else cast(Tensor, self.fusion(tokens))

    def embeddings(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the text and image embeddings of the stock model, (N, d) each, before it scales them to length 1."""
        text, image = self._towers(input_ids, attention_mask, pixel_values)
        return self.text_projection(text.pooler_output), self.visual_projection(image.pooler_output)

    def tokens(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """Return all tokens in the common space, (N, L, d), text before image; padding is 0."""
        text, image = self._towers(input_ids, attention_mask, pixel_values)
        words, patches = text.last_hidden_state, image.last_hidden_state
        if self.config.model_type == "clip":
            patches = self.vision_model.post_layernorm(patches)  # part of SigLIP's tower
        else:
            words = self.text_model.head(words)
        words = self.text_projection(words) * attention_mask[..., None]
        return torch.cat([words, self.visual_projection(patches).to(words.dtype)], dim=1)

    def _towers(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> tuple[Any, Any]:
        return (
            self.text_model(input_ids=input_ids, attention_mask=attention_mask),
            self.vision_model(pixel_values=pixel_values),
        )


class TwoTowersBackbone:
    """A frozen CLIP or SigLIP behind :class:`~feddat.models.two_towers.fusion.FusedBackbone`.

    Until :meth:`fuse` is called, features are the embeddings of both towers and their product.

    Args:
        folder: Hugging Face model folder.
        name: name of the model in reports; default: the folder's path.

    Raises:
        ModelError: the folder is not complete, or its towers do not end in a common space.
    """

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        self.family = read_model_type(self.folder)
        if self.family not in _STOCK:
            raise ModelError(
                f"{self.folder / 'config.json'}: model_type is {self.family!r}; expected {' or '.join(_STOCK)}"
            )
        stock = load_weights(_STOCK[self.family], self.folder, "CLIP" if self.family == "clip" else "SigLIP")
        self.encoder = TwoTowersEncoder(self.folder)
        self._width = _common_width(stock.config, self.folder)
        self._towers = TwoTowers(stock).requires_grad_(False).train(False)
        self.model: nn.Module = self._towers
        self.feature_dim = 3 * self._width
        self._side: str | None = None

    def fuse(self, kind: str, side: str) -> None:
        """Choose how the streams are fused. Call this before adapters are added to :attr:`model`."""
        transformer = kind == "transformer"
        self._towers.reads_tokens = transformer
        self._towers.fusion = None
        self.feature_dim = self._width if transformer else 3 * self._width
        self._side = side if transformer else None
        if self._side == "shared":
            with torch.random.fork_rng(devices=[]):  # trained weights start from the run's seed, see adapters.whole
                self._towers.fusion = self._new_fusion().to(next(self.model.parameters()).device).requires_grad_(False)

    def personal_fusion(self) -> nn.Module | None:
        """Return a new transformer from tokens to pooled features if fusion is personal, else ``None``."""
        return self._new_fusion() if self._side == "personal" else None

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return float features: pooled (views, feature_dim), or tokens (views, L, d) for a personal fusion."""
        features: Tensor = self.model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            pixel_values=inputs["pixel_values"],
        )
        return features if features.dtype == torch.float64 else features.float()

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return ``None``, because neither model has a masked-word head."""
        return None

    def _new_fusion(self) -> FusionTransformer:
        vision = self._towers.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        return FusionTransformer(self._width, patches + (self.family == "clip"))


def _common_width(config: Any, folder: Path) -> int:
    """Return the width of the common space in which both towers end.

    Raises:
        ModelError: there is no common space.
    """
    if config.model_type == "clip":
        return int(config.projection_dim)
    text, vision = config.text_config.projection_size, config.vision_config
    if not vision.vision_use_head or text != vision.hidden_size:
        raise ModelError(
            f"model folder {folder}: text embeddings of width {text}, image embeddings of width "
            f"{vision.hidden_size if vision.vision_use_head else 0}; expected the same"
        )
    return int(text)
