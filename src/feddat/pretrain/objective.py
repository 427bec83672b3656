"""Interface of every pretraining recipe: the losses of a batch, and predictions for measuring quality.

Besides a family's own losses, the scene graph supervises read-outs that ground words quickly. Every image token
predicts the object and colour of its cell, and every object's name in a text predicts its cell and colour (in the
spirit of MDETR's phrase grounding, arXiv 2104.12763).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from feddat.data.mini.concepts import COLOUR_NAMES, CONCEPTS
from feddat.pretrain.batches import IGNORE, Batch

#: Maximum number of text tokens that the bundled models read.
MAX_TEXT = 64


class Objective(nn.Module, ABC):
    """A model under pretraining, with read-outs that are discarded afterwards.

    Attributes:
        pretrained: the model that is kept.
        modes: use of a text -> relative frequency (:class:`feddat.pretrain.batches.Row`).
        closed_questions: whether [SEP] ends a question, as it ends a caption.
        stored_dtype: dtype of the weights in the model folder.
        name: name of the model in its card.
        losses: description of the family's own losses for the model card.
        answering: description of how it answers questions, for the model card.
    """

    modes: ClassVar[Mapping[str, float]]
    closed_questions: ClassVar[bool] = True
    stored_dtype: ClassVar[torch.dtype] = torch.float32
    name: ClassVar[str]
    losses: ClassVar[str]
    answering: ClassVar[str]

    @property
    @abstractmethod
    def pretrained(self) -> PreTrainedModel:
        """Return the model that is kept."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of every part as scalars."""

    @abstractmethod
    def cloze(self, batch: Batch) -> dict[str, Tensor]:
        """Return the predicted word ids (N,) for captions with one masked word each, keyed by kind of prediction."""

    @abstractmethod
    def fits(self, batch: Batch) -> Tensor:
        """Return a tensor (N,) with 1 where the model judges a caption to fit its image, else 0."""

    @abstractmethod
    def answer(self, batch: Batch) -> Tensor:
        """Return the word ids (N,) that answer the questions."""

    @abstractmethod
    def image_processor(self) -> Any:
        """Return the image processor that goes with the model."""

    def start(self, settings: Mapping[str, Any]) -> str:
        """Return a description of the initial weights for the model card; empty for fresh weights."""
        return ""

    @abstractmethod
    def about(self, settings: Mapping[str, Any]) -> str:
        """Return a description of the model for the model card."""


class Grounding(nn.Module):
    """Linear read-outs that the scene graph supervises; they are discarded after pretraining.

    Args:
        width: width of the states that are read.
        grid: side of the raster of image tokens, which consists of four cells of equal size.
    """

    def __init__(self, width: int, grid: int) -> None:
        super().__init__()
        self.token_object = nn.Linear(width, len(CONCEPTS) + 1)
        self.token_colour = nn.Linear(width, len(COLOUR_NAMES))
        self.mention_cell = nn.Linear(width, 4)
        self.mention_colour = nn.Linear(width, len(COLOUR_NAMES))
        rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        half = grid // 2
        self.cell_of_token: Tensor
        self.register_buffer("cell_of_token", (rows // half * 2 + columns // half).flatten(), persistent=False)

    def forward(self, tokens: Tensor, text: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of every read-out.

        Args:
            tokens: states of the image tokens (N, grid², width).
            text: states of the text after attending to the image (N, L, width).
            batch: batch with the labels.
        """
        mentioned = batch.mention_cell != IGNORE
        mentions = text[mentioned]
        object_labels = batch.objects[:, self.cell_of_token]
        colour_labels = batch.colours[:, self.cell_of_token]
        return {
            "object": F.cross_entropy(self.token_object(tokens).float().flatten(0, 1), object_labels.flatten()),
            "colour": F.cross_entropy(self.token_colour(tokens).float().flatten(0, 1), colour_labels.flatten()),
            "mention_cell": mean_loss(self.mention_cell(mentions).float(), batch.mention_cell[mentioned]),
            "mention_colour": mean_loss(self.mention_colour(mentions).float(), batch.mention_colour[mentioned]),
        }


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy; without any label it is zero instead of NaN."""
    return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))


def sinusoids(grid: int, width: int) -> Tensor:
    """Return fixed 2-D sinusoids for a class token (zeros) and grid x grid patches, (1, 1 + grid², width)."""
    quarter = width // 4
    angle = torch.arange(grid)[:, None] * math.pi / grid * torch.exp2(torch.linspace(-1, 2, quarter))
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)  # (grid, width / 2)
    rows = wave[:, None].expand(grid, grid, -1)
    columns = wave[None].expand(grid, grid, -1)
    patches = torch.cat([rows, columns], dim=2).reshape(grid * grid, -1)
    return torch.cat([torch.zeros(1, width), patches])[None]
