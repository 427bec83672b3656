"""Pictures and words out of one message by optimisation: invented data whose gradient points where the message does.

After Zhu, Liu and Han, "Deep Leakage from Gradients", NeurIPS 2019, and Geiping, Bauermeister, Dröge and Moeller,
"Inverting Gradients: How Easy Is It to Break Privacy in Federated Learning?", NeurIPS 2020: the cosine between the two
gradients, and total variation as prior of pictures. Words are mixtures of word embeddings.

The server changes neither the model nor the adapter. It knows the head of the first round, which the seed decides,
unless clients have seeds of their own. We give it what it would otherwise have to guess: the right answers, the
lengths of the questions, and in one variant the questions. It starts from what it knows anyway: the mean of its own
pictures, and how often each word is in its own questions. Only what it finds beyond that counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from feddat.algorithms.base import MAIN_HEAD
from feddat.audit.message import Kind, Message, Target, ask, received, unaltered, vilt_of
from feddat.audit.replay import flat
from feddat.client.learner import autocast
from feddat.client.member import Member
from feddat.example import Example
from feddat.experiment.single.federation import Federation
from feddat.models.base import Encoder
from feddat.seeding import torch_generator

#: Correlation with the true picture from which on a picture counts as rebuilt.
REBUILT = 0.9
#: Largest number of examples that are looked for: a search for more takes long, and finds less.
MOST = 16
#: Weight of total variation, and the steps' sizes for pixels (in normalised units) and for logits of words.
_VARIATION, _PIXEL_LR, _WORD_LR = 0.2, 0.05, 0.2
#: Size of the noise that pictures start with, and of the one in words' logits: equal slots would stay equal.
_NOISE = 0.1
#: A batch of which every gradient is passed on by itself, so small that the model stays where it is for all steps.
_PASSED = {"train.betas": [0.0, 0.999]}
_SMALL_LR = 10.0
#: Logit of a word that the attacker knows.
_SURE = 50.0
_WHAT = {True: "pictures to known questions: gradient matching", False: "pictures and words: gradient matching"}


def attack(
    target: Target, iterations: int, told: bool, batch: int, steps: int, kind: Kind, folder: Path
) -> dict[str, Any]:
    """Return how close optimisation comes to a client's pictures and words, from one message.

    Of a message with more than :data:`MOST` examples, the first ones are looked for.

    Args:
        target: whom to attack.
        iterations: steps of the optimisation.
        told: the attacker knows the questions, and looks for their pictures.
        batch: examples per step.
        steps: of the round.
        kind: of client; one of the run has its own batches and steps.
        folder: for the clients' states.
    """
    adapter = target.config.adapter.peft if target.config.adapter.peft in ("bottleneck", "lora") else "bottleneck"
    asked = ask(target, kind, batch, steps, changes(steps) if kind == "obeys" else {}, str(adapter))
    row: dict[str, Any] = {"what": _WHAT[told], "examples": asked.examples, "steps": asked.steps}
    if asked.refused:
        return row | {"recovered": 0, "of": asked.examples, "refused": asked.refused}

    def craft(federation: Federation, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        return shared

    with received(asked, folder, unaltered, craft) as message:
        invented = Invented.start(message, list(target.known), told, target.config.seed)
        before = invented.compared()
        matched = invented.fit(-flat(message.update), iterations)
        after = invented.compared()
    return row | after.to_json(before, invented.guessed(len(after.named))) | {"matched": matched}


def changes(steps: int) -> dict[str, Any]:
    """Return what the attacker asks of an obeying client beside the settings of every attack on one message."""
    return _PASSED | ({} if steps == 1 else {"train.lr": _SMALL_LR})


@dataclass(frozen=True, slots=True)
class Closeness:
    """How close invented data is to the true data.

    Attributes:
        correlations: of each true picture with the invented one that is assigned to it, (N,).
        psnr: their mean peak signal-to-noise ratio, in dB.
        words: distinct words that are in the true questions and in the invented ones.
        named: distinct words in the invented questions.
        there: distinct words in the true questions.
    """

    correlations: Tensor
    psnr: float
    words: frozenset[int]
    named: frozenset[int]
    there: frozenset[int]

    def to_json(self, start: Closeness, guess: frozenset[int]) -> dict[str, Any]:
        """Return the closeness for JSON, beside that of the attacker's start, and of a guess of as many words."""
        return {
            "recovered": int((self.correlations >= REBUILT).sum() - (start.correlations >= REBUILT).sum()),
            "of": len(self.correlations),
            "correlation": [float(start.correlations.mean()), float(self.correlations.mean())],
            "psnr": [start.psnr, self.psnr],
            "words": [len(guess & self.there), len(self.words), len(self.there)],
            "words_wrong": len(self.named - self.there),
        }


class Invented:
    """Invented pictures and questions, which are optimised.

    Args:
        message: of the client, whose model and targets are known.
        truth: the true inputs; only their shapes, masks and special tokens are used before they are compared.
        pictures: to start with, (N, 3, H, W), in the model's units.
        words: logits to start with, (N, L, vocabulary).
        prior: logits of the attacker's own words, (vocabulary,).
        peak: largest difference of two pixels in the model's units.
        told: the words are known, and stay.

    Attributes:
        truth: the true inputs, by name.
    """

    def __init__(
        self,
        message: Message,
        truth: Mapping[str, Tensor],
        pictures: Tensor,
        words: Tensor,
        prior: Tensor,
        peak: float,
        told: bool,
    ) -> None:
        member, foundation = message.victim, message.federation.foundation
        if foundation.config.privacy.secret_seeds:  # the attacker knows only the run's seed
            member = Member(member.data, foundation.config, foundation.backbone, member.device)
        member.reset_heads()  # that of the first round, as far as the attacker knows it
        self._foundation, self._member = foundation, member
        self._embeddings = vilt_of(self._foundation.backbone.model).embeddings.text_embeddings
        self._targets = member.prepared("train").targets[: len(pictures)]
        self.truth = dict(truth)
        special = _special(message.federation.foundation.backbone.encoder)
        self._fixed = torch.isin(truth["input_ids"], torch.tensor(sorted(special))) | ~truth["attention_mask"].bool()
        self._prior, self._range, self._told = prior, peak, told
        self.pictures, self.words = pictures.requires_grad_(), words.requires_grad_()

    @classmethod
    def start(cls, message: Message, known: list[Example], told: bool, seed: int) -> Invented:
        """Return what the attacker starts with: its own pictures' mean, its own words' frequencies, and noise."""
        member = message.victim
        count = min(MOST, len(member.data.train))
        truth = member.inputs(member.prepared("train").views, torch.arange(count))
        own = member.inputs(member.encode_unseen(known), torch.arange(len(known)))
        generator = torch_generator(seed, "audit", "matching")
        shape = truth["pixel_values"].shape
        mean = functional.interpolate(own["pixel_values"].mean(dim=0, keepdim=True), shape[2:])
        spread = own["pixel_values"].std()
        pictures = mean + _NOISE * spread * torch.randn(shape, generator=generator)
        size = vilt_of(message.federation.foundation.backbone.model).config.vocab_size
        counts = torch.bincount(own["input_ids"][own["attention_mask"].bool()], minlength=size).float()
        counts[list(_special(message.federation.foundation.backbone.encoder))] = 0
        prior = (counts + 0.1).log()
        words = prior + _NOISE * torch.randn(*truth["input_ids"].shape, size, generator=generator)
        peak = float(own["pixel_values"].max() - own["pixel_values"].min())
        if told:
            words = _SURE * functional.one_hot(truth["input_ids"], size).float()
        return cls(message, truth, pictures, words, prior, peak, told)

    def fit(self, target: Tensor, iterations: int) -> float:
        """Optimise towards a gradient (D,); return the cosine that is reached in the end."""
        adapters, backbone = self._foundation.adapters, self._foundation.backbone
        named = adapters.named("global")
        parameters = [named[key] for key in sorted(named) if self._foundation.algorithm.shares(key)]
        head = self._member.heads[MAIN_HEAD].eval()
        optimizer = torch.optim.Adam(
            [
                {"params": [self.pictures], "lr": _PIXEL_LR},
                {"params": [self.words], "lr": 0.0 if self._told else _WORD_LR},
            ]
        )
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, iterations))
        adapters.route("global")
        backbone.model.eval()
        reached, precision = 0.0, self._foundation.config.train.precision
        # Only the plain form of attention has second derivatives.
        with sdpa_kernel(SDPBackend.MATH):
            for _ in range(iterations):
                optimizer.zero_grad()
                with autocast(self._member.device, precision):
                    features = backbone.features(self._inputs())
                loss = self._member.task.loss(self._member.task.logits(head, features.float()), self._targets)
                found = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
                pairs = zip(found, parameters, strict=True)
                gradient = torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])
                alike = functional.cosine_similarity(gradient, target, dim=0, eps=1e-30)
                distance = 1 - alike + _VARIATION * total_variation(self.pictures) / self._range
                distance.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                decay.step()
                reached = float(alike.detach())
        backbone.model.zero_grad(set_to_none=True)
        return reached

    def _inputs(self) -> dict[str, Tensor]:
        """Return the model's inputs; special tokens are where they always are, and what is padding stays so."""
        ids = self.truth["input_ids"]
        weights = self._embeddings.word_embeddings.weight.float()
        mixed = self.words.softmax(dim=-1) @ weights
        embedded = torch.where(self._fixed[..., None], weights[ids], mixed)
        given = {key: value for key, value in self.truth.items() if key != "input_ids"}
        return given | {"inputs_embeds": embedded, "pixel_values": self.pictures}

    def guessed(self, count: int) -> frozenset[int]:
        """Return the ``count`` words that are most frequent in the attacker's own questions."""
        return frozenset(self._prior.topk(count).indices.tolist())

    @torch.no_grad()
    def compared(self) -> Closeness:
        """Return how close it is to the truth; each true picture has one invented picture, so that the sum is best."""
        true, found = self.truth["pixel_values"].flatten(1), self.pictures.flatten(1)
        table = correlation(true, found)
        rows, columns = linear_sum_assignment(-table.numpy())
        errors = (true[rows] - found[columns]).square().mean(dim=1)
        psnr = float((10 * (self._range**2 / errors.clamp_min(1e-12)).log10()).mean())
        there = frozenset(self.truth["input_ids"][~self._fixed].tolist())
        named = frozenset(self.words.argmax(dim=-1)[~self._fixed].tolist())
        return Closeness(table[rows, columns], psnr, named & there, named, there)


def correlation(one: Tensor, other: Tensor) -> Tensor:
    """Return Pearson's correlation of every row of one (n, p) with every row of another (m, p): (n, m)."""
    first, second = (part - part.mean(dim=1, keepdim=True) for part in (one, other))
    return functional.normalize(first, dim=1) @ functional.normalize(second, dim=1).T


def total_variation(pictures: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels of pictures (N, C, H, W), a scalar."""
    return pictures.diff(dim=-1).abs().mean() + pictures.diff(dim=-2).abs().mean()


def _special(encoder: Encoder) -> frozenset[int]:
    """Return the tokens that are in every question whatever it asks."""
    return frozenset(set.intersection(*(set(text) for text in encoder.texts(["a", "what"]))))
