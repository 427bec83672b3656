"""The pretraining recipe of vilt-mini.

It uses masked words and image-text matching (ViLT, arXiv 2102.03334). In addition, the masked-word head predicts a
question's answer, or the only masked word of a caption, from the pooled feature. A task head can then start from that
feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, ViltConfig, ViltForMaskedLM
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

from feddat.data.mini.render import CANVAS
from feddat.data.mini.vocabulary import vocabulary
from feddat.models.vilt.fast import make_fast
from feddat.pretrain.batches import IGNORE, Batch
from feddat.pretrain.objective import MAX_TEXT, Grounding, Objective, mean_loss, sinusoids
from feddat.pretrain.settings import PretrainSettings

#: Weight of the log-partition penalty, which keeps the word logits near log-probabilities (PaLM, arXiv 2204.02311).
Z_WEIGHT = 1e-2


class ViltObjective(Objective):
    """The ViLT with its masked-word head, which is kept, and linear read-outs, which are discarded."""

    modes: ClassVar[Mapping[str, float]] = {"mask": 0.25, "cloze": 0.22, "match": 0.23, "question": 0.30}
    name = "vilt-mini"
    losses = """masked words; image-text matching; one masked
word, or a question's answer, predicted from the pooled feature by the masked-word head"""
    answering = "The answer to a question is the word of the whole vocabulary that the pooled feature predicts."

    def __init__(self, vilt: ViltForMaskedLM, grid: int) -> None:
        super().__init__()
        self.vilt = vilt
        width = vilt.config.hidden_size
        self.grounding = Grounding(width, grid)
        self.match = nn.Linear(width, 2)

    @classmethod
    def new(cls, settings: PretrainSettings) -> ViltObjective:
        """Return a ViLT with fresh weights and the read-outs of the pretraining losses."""
        torch.manual_seed(settings.seed)
        config = ViltConfig(
            vocab_size=len(vocabulary()),
            hidden_size=settings.hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            intermediate_size=4 * settings.hidden,
            image_size=CANVAS,
            patch_size=settings.patch,
            max_position_embeddings=MAX_TEXT,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=2,
            modality_type_vocab_size=2,
            max_image_length=-1,
            layer_norm_eps=1e-6,
        )
        vilt = make_fast(ViltForMaskedLM(config))
        grid = CANVAS // settings.patch
        embeddings = vilt.vilt.embeddings
        with torch.no_grad():
            # Patch features have a scale near 1. The model never learns from much weaker position embeddings.
            embeddings.position_embeddings.copy_(0.7 * sinusoids(grid, settings.hidden))
        return cls(vilt, grid)

    @property
    def pretrained(self) -> PreTrainedModel:
        """Return the ViLT with its masked-word head."""
        return self.vilt

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of every part."""
        text_length = batch.inputs["input_ids"].shape[1]
        output = self.vilt.vilt(**batch.inputs)
        text = output.last_hidden_state[:, :text_length]
        tokens = output.last_hidden_state[:, text_length + 1 :]
        pooled = output.pooler_output
        masked = batch.word != IGNORE
        answered = batch.pooled != IGNORE
        matched = batch.match != IGNORE
        words = self.vilt.mlm_score(text[masked]).float()
        answers = self.vilt.mlm_score(pooled[answered]).float()
        return {
            "word": mean_loss(words, batch.word[masked]),
            "pooled": mean_loss(answers, batch.pooled[answered]),
            "z": Z_WEIGHT
            * torch.cat([answers, words]).logsumexp(-1).square().sum()
            / max(1, len(answers) + len(words)),
            "match": mean_loss(self.match(pooled[matched]).float(), batch.match[matched]),
            **self.grounding(tokens, text, batch),
        }

    def cloze(self, batch: Batch) -> dict[str, Tensor]:
        """Return the words predicted at the masked position (``word``) and from the pooled feature (``pooled``)."""
        output = self.vilt.vilt(**batch.inputs)
        masked = batch.word != IGNORE
        text = output.last_hidden_state[:, : masked.shape[1]][masked]
        return {"word": self._named(text), "pooled": self._named(output.pooler_output)}

    def fits(self, batch: Batch) -> Tensor:
        """Return a tensor (N,) with 1 where the model judges a caption to fit its image, else 0."""
        fitting: Tensor = self.match(self.vilt.vilt(**batch.inputs).pooler_output).argmax(-1)
        return fitting

    def answer(self, batch: Batch) -> Tensor:
        """Return the word ids (N,) predicted from the pooled feature."""
        return self._named(self.vilt.vilt(**batch.inputs).pooler_output)

    def _named(self, states: Tensor) -> Tensor:
        named: Tensor = self.vilt.mlm_score(states).argmax(-1)
        return named

    def image_processor(self) -> Any:
        """Return the image processor that goes with the model."""
        half = [0.5, 0.5, 0.5]
        preparation: dict[str, Any] = {
            "size": {"shortest_edge": CANVAS},
            "size_divisor": self.vilt.config.patch_size,
            "image_mean": half,
            "image_std": half,
        }
        return ViltImageProcessorPil(**preparation)

    def about(self, settings: Mapping[str, Any]) -> str:
        """Return a description of the model for the model card."""
        parameters = sum(parameter.numel() for parameter in self.vilt.parameters())
        return f"""A ViLT (arXiv 2102.03334) of {parameters / 1e6:.2f} M parameters ({settings["layers"]} layers, width
{settings["hidden"]}, patches of {settings["patch"]} pixels on a {CANVAS}-pixel canvas)."""
