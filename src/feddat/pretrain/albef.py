"""The pretraining recipe of albef-mini: align before fuse, at the size of the mini world.

Li et al., "Align before Fuse: Vision and Language Representation Learning with Momentum Distillation", NeurIPS 2021,
arXiv 2107.07651, section 3: image-text contrast before the fusion layers, matching with hard negatives drawn by the
contrastive similarities, and masked words with the image visible. Questions train the answer decoder as a language
model, as section 4 of the paper does for VQA. The recipe has no momentum model, and hence no queues and no distillation
from it. The negatives of the contrast come only from the batch.
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

#: Number of answers with the likeliest first tokens that are ranked by their full likelihood.
RANKED = 4


@dataclass(frozen=True, slots=True)
class AlbefSettings(PretrainSettings):
    """The ALBEF's own settings, and its defaults for the settings of every family.

    Attributes:
        layers: number of layers of the image encoder.
        start: ViLT (bundled name or folder) whose weights initialise image encoder, embeddings and vocabulary head
            (:func:`feddat.pretrain.albef_start.start_from_vilt`); ``none``: fresh weights.
        frozen: number of first layers of the image encoder that stay frozen, together with its embeddings.
        text_layers: number of layers of the text encoder.
        mlp: width of the feed-forward blocks of text encoder and decoder, in multiples of ``hidden``.
        fusion_layer: first layer of the text encoder that attends to the image.
        decoder_layers: number of layers of the answer decoder.
        contrast_width: width of the space in which images and texts are compared.
    """

    family: ClassVar[str] = "albef"
    from_zero: ClassVar[frozenset[str]] = PretrainSettings.from_zero | {"frozen", "fusion_layer"}

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
    """The ALBEF, which is kept, and linear read-outs, which are discarded.

    The decoder's vocabulary head is also the masked-word head. In the published model it starts as a copy of that head.
    """

    modes: ClassVar[Mapping[str, float]] = {"mask": 0.25, "match": 0.35, "question": 0.40}
    closed_questions = False
    stored_dtype = torch.float16
    name = "albef-mini"
    losses = """image-text contrast between
the image's and the caption's [CLS] before the fusion layers (negatives: the other captions and images of the batch);
matching of captions with one wrong word, and of wrong image-caption pairs drawn by the contrast's own similarities;
masked words with the image visible; language-model loss of the answer decoder on questions with one-word answers"""
    answering = f"The answer to a question is the likeliest of all {len(ANSWERS)} answers in pretraining."

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
        """Return an ALBEF, initialised as ``settings.start`` says, with the read-outs of the pretraining losses.

        Raises:
            ConfigError: ``fusion_layer`` is not one of the text encoder's layers.
        """
        if not 0 <= settings.fusion_layer < settings.text_layers:
            raise ConfigError(f"fusion_layer={settings.fusion_layer}: expected 0 to {settings.text_layers - 1}")
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
                # Patch features have a scale near 1. The model never learns from much weaker position embeddings.
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
        """Return the cosine similarities of images (N, d) and texts (M, d), divided by the temperature, (N, M)."""
        images = F.normalize(self.image_projection(image).float(), dim=-1)
        texts = F.normalize(self.text_projection(text).float(), dim=-1)
        return images @ texts.T / self.log_temperature.exp().clamp(0.01, 0.5)

    def _contrast(self, image: Tensor, text: Tensor) -> Tensor:
        """Return the mean cross-entropy of both directions for images and captions that fit one to one."""
        scores = self.similarities(image, text)
        own = torch.arange(len(scores))
        return (mean_loss(scores, own) + mean_loss(scores.T, own)) / 2

    def _negatives(self, image: Tensor, text: Tensor, mask: Tensor, batch: Batch) -> Tensor:
        """Return the matching loss of one hard negative caption per image and one hard negative image per caption."""
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
        """Return the words predicted at the masked position (``word``)."""
        named: Tensor = self.albef.head(self._encode(batch)[batch.word != IGNORE]).argmax(-1)
        return {"word": named}

    def fits(self, batch: Batch) -> Tensor:
        """Return a tensor (N,) with 1 where the model judges a caption to fit its image, else 0."""
        fitting: Tensor = self.match(self._encode(batch)[:, 0]).argmax(-1)
        return fitting

    def answer(self, batch: Batch) -> Tensor:
        """Return the likeliest of all answers as word ids (N,), ranked as the clients of a federation do."""
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
        """Return a description of the initial weights for the model card."""
        if settings["start"] == "none":
            return ""
        return f"""The image encoder starts with the weights of
{settings["start"]}; its embeddings and first {settings["frozen"]} layers stay frozen. Text encoder, decoder and
vocabulary head start with the embeddings and masked-word head of {settings["start"]}. All other layers start with fresh
weights. The card of {settings["start"]} states its compute. """

    def about(self, settings: Mapping[str, Any]) -> str:
        """Return a description of the model for the model card."""
        parameters = sum(parameter.numel() for parameter in self.albef.parameters())
        return f"""An ALBEF (arXiv 2107.07651) of {parameters / 1e6:.2f} M parameters: an image encoder of
{settings["layers"]} layers (patches of {settings["patch"]} pixels on a {CANVAS}-pixel canvas), a text encoder of
{settings["text_layers"]} layers, the last {settings["text_layers"] - settings["fusion_layer"]} of which attend to the
image, and an answer decoder of {settings["decoder_layers"]} layers, all of width {settings["hidden"]}. It generates
answers."""


def draw_negatives(scores: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Return, for N > 1 fitting pairs, the index of a wrong text per image and of a wrong image per text, (N,) each.

    The draw follows the softmax of the similarities, so that pairs that are hard to tell apart occur often.

    Args:
        scores: similarities divided by the temperature (N, N), images by texts; the diagonal holds the fitting pairs.
        seed: seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = scores.detach().masked_fill(torch.eye(len(scores), dtype=torch.bool), -torch.inf)
    text = torch.multinomial(wrong.softmax(dim=1), 1, generator=generator)[:, 0]
    image = torch.multinomial(wrong.T.softmax(dim=1), 1, generator=generator)[:, 0]
    return text, image
