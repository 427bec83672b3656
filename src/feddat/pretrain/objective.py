"""The pretraining losses of the bundled model.

Besides masked words and image-text matching (ViLT, arXiv 2102.03334) the scene graph supervises what grounds words
quickly: every image token names its cell's object and colour, and every object's name in a text names its cell and
colour (in the spirit of MDETR's phrase grounding, arXiv 2104.12763). A question's answer, or the one masked word of a
caption, is also read off the pooled feature through the masked-word head, so that a task head can start from it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViltForMaskedLM

from feddat.data.mini.concepts import COLOUR_NAMES, CONCEPTS
from feddat.pretrain.batches import IGNORE, Batch

#: Weight of the log-partition penalty that keeps the word logits near log-probabilities (PaLM, arXiv 2204.02311).
Z_WEIGHT = 1e-2


class PretrainingModel(nn.Module):
    """The ViLT that is kept, and linear read-outs that are not."""

    def __init__(self, vilt: ViltForMaskedLM, grid: int) -> None:
        super().__init__()
        self.vilt = vilt
        width = vilt.config.hidden_size
        self.token_object = nn.Linear(width, len(CONCEPTS) + 1)
        self.token_colour = nn.Linear(width, len(COLOUR_NAMES))
        self.mention_cell = nn.Linear(width, 4)
        self.mention_colour = nn.Linear(width, len(COLOUR_NAMES))
        self.match = nn.Linear(width, 2)
        rows, columns = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
        half = grid // 2
        self.cell_of_token: Tensor
        self.register_buffer("cell_of_token", (rows // half * 2 + columns // half).flatten(), persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of every part."""
        text_length = batch.inputs["input_ids"].shape[1]
        output = self.vilt.vilt(**batch.inputs)
        text = output.last_hidden_state[:, :text_length]
        tokens = output.last_hidden_state[:, text_length + 1 :]
        pooled = output.pooler_output
        # Parts that a batch happens to hold no label for must give a zero, not a NaN.
        masked = batch.word != IGNORE
        answered = batch.pooled != IGNORE
        matched = batch.match != IGNORE
        words = self.vilt.mlm_score(text[masked]).float()
        answers = self.vilt.mlm_score(pooled[answered]).float()
        mentioned = batch.mention_cell != IGNORE
        mentions = text[mentioned]
        object_labels = batch.objects[:, self.cell_of_token]
        colour_labels = batch.colours[:, self.cell_of_token]
        return {
            "word": _mean_loss(words, batch.word[masked]),
            "pooled": _mean_loss(answers, batch.pooled[answered]),
            "z": Z_WEIGHT
            * torch.cat([answers, words]).logsumexp(-1).square().sum()
            / max(1, len(answers) + len(words)),
            "match": _mean_loss(self.match(pooled[matched]).float(), batch.match[matched]),
            "object": F.cross_entropy(self.token_object(tokens).float().flatten(0, 1), object_labels.flatten()),
            "colour": F.cross_entropy(self.token_colour(tokens).float().flatten(0, 1), colour_labels.flatten()),
            "mention_cell": _mean_loss(self.mention_cell(mentions).float(), batch.mention_cell[mentioned]),
            "mention_colour": _mean_loss(self.mention_colour(mentions).float(), batch.mention_colour[mentioned]),
        }


def _mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum") / max(1, len(labels))
