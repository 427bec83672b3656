"""The recipe of albef-mini: align before fuse, at the size of the mini world.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021,
arXiv 2107.07651, section 3: image-text contrast before the fusion layers, matching with hard negatives drawn by the
contrastive similarities, and masked words beside the image. Questions train the answer decoder as a language model, as
its section 4 does for VQA. Left out: the momentum model with its queues and its distillation; the batch alone has the
contrast's negatives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedModel, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.config import ConfigError
from feddat.data.mini.captions import ANSWERS
from feddat.data.mini.render import CANVAS
from feddat.data.mini.vocabulary import vocabulary
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.pretrain.albef_start import start_from_vilt
from feddat.pretrain.batches import IGNORE, Batch
from feddat.pretrain.objective import MAX_TEXT, Grounding, Objective, mean_loss, sinusoids
from feddat.pretrain.settings import PretrainSettings

#: Of the answers with the likeliest first token, so many are ranked by their whole likelihood.
RANKED = 4


@dataclass(frozen=True, slots=True)
class AlbefSettings(PretrainSettings):
    """The ALBEF's settings, and its defaults for those of every family.

    Attributes:
        layers: of the image encoder.
        start: ViLT (bundled name or folder) that image encoder, embeddings and vocabulary head start as
            (:func:`feddat.pretrain.albef_start.start_from_vilt`); ``none``: fresh weights.
        frozen: the image encoder's first so many layers, and its embeddings, stay as they start.
        text_layers: of the text encoder.
        mlp: width of the feed-forward blocks of text encoder and decoder, in multiples of ``hidden``.
        fusion_layer: first layer of the text encoder that attends to the image.
        decoder_layers: of the answer decoder.
        contrast_width: of the space in which images and texts are compared.
    """

    family: ClassVar[str] = "albef"

    steps: int = 1_100
    batch_size: int = 96
    parts: int = 2
    lr: float = 1e-3
    warmup: int = 100
    simple_steps: int = 300
    jobs: int = 1
    every: int = 50
    start: str = "vilt-mini"
    frozen: int = 3
    text_layers: int = 4
    mlp: int = 2
    fusion_layer: int = 2
    decoder_layers: int = 2
    contrast_width: int = 64
    loss_weights: dict[str, float] = field(
        default_factory=lambda: {
            "contrast": 0.3,
            "match": 1.0,
            "negative": 0.3,
            "word": 1.0,
            "answer": 1.0,
            "object": 0.5,
            "colour": 0.3,
            "mention_cell": 0.5,
            "mention_colour": 0.3,
        }
    )


class AlbefObjective(Objective):
    """The ALBEF that is kept, and linear read-outs that are not.

    The decoder's vocabulary head is the masked-word head too: in the published model the one starts as the other.
    """

    modes: ClassVar[Mapping[str, float]] = {"mask": 0.25, "match": 0.35, "question": 0.40}
    closed_questions = False
    stored_dtype = torch.float16
    name = "albef-mini"
    losses = """image-text contrast between
the image's and the caption's [CLS] before the fusion layers (negatives: the other captions and images of the batch);
matching of captions with one wrong word, and of images and captions paired wrongly by the contrast's own similarities;
masked words beside the image; the language-model loss of the answer decoder on questions with one-word answers"""
    answering = f"Questions are answered by the likeliest of all {len(ANSWERS)} answers that pretraining has."

    def __init__(self, albef: AlbefForQuestionAnswering, contrast_width: int) -> None:
        super().__init__()
        self.albef = albef
        vision = albef.config.vision_config
        width = vision.hidden_size
        self.grounding = Grounding(width, vision.image_size // vision.patch_size)
        self.match = nn.Linear(width, 2)
        self.image_projection = nn.Linear(width, contrast_width)
        self.text_projection = nn.Linear(width, contrast_width)
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        words = vocabulary()
        self._start, self._end = words.index("[CLS]"), words.index("[SEP]")
        self.answers: Tensor
        self.register_buffer("answers", torch.tensor([words.index(answer) for answer in ANSWERS]), persistent=False)

    @classmethod
    def new(cls, settings: AlbefSettings) -> AlbefObjective:
        """Return an ALBEF with fresh weights and the read-outs of the pretraining losses.

        Raises:
            ConfigError: ``fusion_layer`` is not one of the text encoder's layers.
        """
        if not 0 <= settings.fusion_layer < settings.text_layers:
            raise ConfigError(f"fusion_layer={settings.fusion_layer}: expected one of {settings.text_layers} layers")
        torch.manual_seed(settings.seed)
        common: dict[str, Any] = {
            "hidden_size": settings.hidden,
            "num_attention_heads": settings.heads,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        }
        vision = ViTConfig(
            **common,
            num_hidden_layers=settings.layers,
            intermediate_size=4 * settings.hidden,
            image_size=CANVAS,
            patch_size=settings.patch,
            layer_norm_eps=1e-6,
        )
        text = BertConfig(
            **common,
            num_hidden_layers=settings.text_layers,
            intermediate_size=settings.mlp * settings.hidden,
            vocab_size=len(vocabulary()),
            max_position_embeddings=MAX_TEXT,
        )
        config = AlbefConfig(
            vision_config=vision,
            text_config=text,
            fusion_layer=settings.fusion_layer,
            decoder_layers=settings.decoder_layers,
        )
        albef = AlbefForQuestionAnswering(config)
        if settings.start == "none":
            with torch.no_grad():
                # Patch features arrive with a scale near 1; positions much fainter than that are never learnt from.
                positions = albef.albef.vision.embeddings.position_embeddings
                positions.copy_(0.7 * sinusoids(CANVAS // settings.patch, settings.hidden))
        else:
            start_from_vilt(albef, settings.start)
        for module in [albef.albef.vision.embeddings, *albef.albef.vision.layers[: settings.frozen]]:
            module.requires_grad_(False)
        return cls(albef, settings.contrast_width)

    @property
    def pretrained(self) -> PreTrainedModel:
        """Return the ALBEF with its answer decoder and vocabulary head."""
        return self.albef

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of every part."""
        model, mask = self.albef.albef, batch.inputs["attention_mask"]
        image = model.vision(batch.inputs["pixel_values"]).last_hidden_state
        text = model.read_text(batch.inputs["input_ids"], mask)
        fused = model.fuse(text, mask, image)
        masked, matched = batch.word != IGNORE, batch.match != IGNORE
        described = ~batch.question & (batch.match != 0)
        return {
            "contrast": self._contrast(image[described, 0], text[described, 0]),
            "match": mean_loss(self.match(fused[matched, 0]).float(), batch.match[matched]),
            "negative": self._negatives(image, text, mask, batch),
            "word": mean_loss(self.albef.head(fused[masked]).float(), batch.word[masked]),
            "answer": self._answers(fused[batch.question], mask[batch.question], batch.pooled[batch.question]),
            **self.grounding(image[:, 1:], fused, batch),
        }

    def similarities(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the cosine of every image (N, d) with every text (M, d) over the temperature, (N, M)."""
        images = F.normalize(self.image_projection(image).float(), dim=-1)
        texts = F.normalize(self.text_projection(text).float(), dim=-1)
        return images @ texts.T / self.log_temperature.exp().clamp(0.01, 0.5)

    def _contrast(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the mean of both directions' cross-entropies, for images and captions that fit one to one."""
        scores = self.similarities(image, text)
        own = torch.arange(len(scores))
        return (mean_loss(scores, own) + mean_loss(scores.T, own)) / 2

    def _negatives(self, image: Tensor, text: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Return the matching loss of one wrong caption per image, and one wrong image per caption, likely ones."""
        rows = (batch.match == 1).nonzero()[:, 0]
        if len(rows) < 2:
            return image.new_zeros(())
        wrong_text, wrong_image = draw_negatives(self.similarities(image[rows, 0], text[rows, 0]), batch.seed)
        images = torch.cat([rows, rows[wrong_image]])
        texts = torch.cat([rows[wrong_text], rows])
        fused = self.albef.albef.fuse(text[texts], mask[texts], image[images])
        return mean_loss(self.match(fused[:, 0]).float(), torch.zeros_like(texts))

    def _answers(self, states: Tensor, mask: Tensor, answers: Tensor) -> Tensor:
        """Return the mean over questions of −log p(answer, [SEP])."""
        if not len(states):
            return states.new_zeros(())
        logits = self._decode(states, mask, torch.stack([torch.full_like(answers, self._start), answers], dim=1))
        targets = torch.stack([answers, torch.full_like(answers, self._end)], dim=1)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum") / len(states)

    def _decode(self, states: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
        decoded = self.albef.albef.decode(ids, torch.ones_like(ids), states, mask)
        logits: Tensor = self.albef.head(decoded).float()
        return logits

    def cloze(self, batch: Batch) -> dict[str, Tensor]:
        """Return the words named in place (``word``)."""
        named: Tensor = self.albef.head(self._encode(batch)[batch.word != IGNORE]).argmax(-1)
        return {"word": named}

    def fits(self, batch: Batch) -> Tensor:
        """Return 1 (N,) where a caption is judged to fit its image, else 0."""
        fitting: Tensor = self.match(self._encode(batch)[:, 0]).argmax(-1)
        return fitting

    def answer(self, batch: Batch) -> Tensor:
        """Return the likeliest of all answers, as word ids (N,); ranked as a federation's clients do."""
        states, mask = self._encode(batch), batch.inputs["attention_mask"]
        start = torch.full((len(states), 1), self._start)
        first = self._decode(states, mask, start)[:, 0].log_softmax(-1)[:, self.answers].topk(RANKED)
        rows = torch.arange(len(states)).repeat_interleave(RANKED)
        ids = torch.stack([start[rows, 0], self.answers[first.indices.flatten()]], dim=1)
        end = self._decode(states[rows], mask[rows], ids)[:, 1].log_softmax(-1)[:, self._end]
        best = (first.values + end.view_as(first.values)).argmax(-1, keepdim=True)
        return self.answers[first.indices.gather(1, best)[:, 0]]

    def _encode(self, batch: Batch) -> Tensor:
        return self.albef.albef.encode(**batch.inputs)

    def image_processor(self) -> Any:
        """Return the image processor that goes with the model."""
        half = [0.5, 0.5, 0.5]
        return ViTImageProcessorPil(size={"height": CANVAS, "width": CANVAS}, image_mean=half, image_std=half)

    def start(self, settings: Mapping[str, Any]) -> str:
        """Return what training starts from, in words for the model card."""
        if settings["start"] == "none":
            return ""
        return f"""The image encoder starts as the layers of
{settings["start"]} without a text, whose first {settings["frozen"]} layers and embeddings stay as they are; text
encoder, decoder and vocabulary head start with its embeddings and masked-word head; all other layers start anew.
What {settings["start"]} cost is in its own card. """

    def about(self, settings: Mapping[str, Any]) -> str:
        """Return what the model is, in words for the model card."""
        parameters = sum(parameter.numel() for parameter in self.albef.parameters())
        return f"""An ALBEF (arXiv 2107.07651) of {parameters / 1e6:.2f} M parameters: an image encoder of
{settings["layers"]} layers (patches of {settings["patch"]} pixels on a {CANVAS}-pixel canvas), a text encoder of
{settings["text_layers"]} layers of which the last {settings["text_layers"] - settings["fusion_layer"]} attend to the
image, and an answer decoder of {settings["decoder_layers"]}, all of width {settings["hidden"]}. It writes answers."""


def draw_negatives(scores: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return, for N > 1 fitting pairs, a wrong text per image and a wrong image per text, (N,) each.

    Drawn by the softmax of the similarities, so that what is hard to tell apart comes often.

    Args:
        scores: similarities over the temperature (N, N), images by texts; the diagonal fits.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = scores.detach().masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    text = torch.multinomial(wrong.softmax(dim=1), 1, generator=generator)[:, 0]
    image = torch.multinomial(wrong.T.softmax(dim=1), 1, generator=generator)[:, 0]
    return text, image
