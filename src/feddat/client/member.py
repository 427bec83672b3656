"""One owner of data within a participant: its task, its personal heads and its prepared examples."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from feddat.algorithms.base import MAIN_HEAD
from feddat.client.encode import check_encoder, encode_cached
from feddat.client.generation import AnnotatedAnswers, Generation
from feddat.config import ConfigError, RunConfig
from feddat.data.cache import EncodingCache
from feddat.example import ClientData, DataError, Example, View
from feddat.models.base import Backbone, EncodedViews
from feddat.models.encoding import encode_views
from feddat.models.generative import GenerativeBackbone, ReadingBackbone
from feddat.models.two_towers.fusion import FusedBackbone
from feddat.phases import phase
from feddat.pictures import PictureReader
from feddat.seeding import derive
from feddat.tasks import make_task

log = logging.getLogger(__name__)

#: Name, among a member's heads, of a personal module that pools features before the heads (:class:`FusedBackbone`).
FUSION = "fusion"
#: The entry of :data:`feddat.example.ANSWERING` that chooses a class and writes nothing.
CLASSES = "classes"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Examples that are ready to be batched any number of times.

    Attributes:
        views: V encoded views per example; the views of an example are adjacent.
        targets: the task's targets, one row per example, on the device.
        size: number of examples.
        answers: the annotated answers that training writes; ``None`` where answers are classes.
    """

    views: EncodedViews
    targets: Tensor
    size: int
    answers: AnnotatedAnswers | None = None

    def targets_at(self, indices: Tensor) -> Tensor:
        """Return the targets of the examples at ``indices`` (N,)."""
        return self.targets[indices.to(self.targets.device, non_blocking=True)]


class Member:
    """One client's data with its task and heads.

    Args:
        data: the client's data.
        config: the settings of the run.
        backbone: the frozen model.
        device: where heads and targets are.
        extra_heads: names of further heads, for routes with their own.
        seed: returns the seed of the heads' initialisation; default: the run's.

    Attributes:
        name: the client's name.
        answering: how the client answers, one of :data:`feddat.example.ANSWERING`.
        generation: how the backbone writes this client's answers; ``None`` where they are classes.

    Raises:
        DataError: the task is unknown, the answers do not fit it or cannot be written, or the data was prepared for
            another encoder.
    """

    def __init__(
        self,
        data: ClientData,
        config: RunConfig,
        backbone: Backbone,
        device: torch.device,
        extra_heads: Iterable[str] = (),
        seed: Callable[[], int] | None = None,
    ) -> None:
        self.name = data.name
        self.data = data
        try:
            self.task = make_task(data.task, data.answers)
        except ValueError as error:
            raise DataError(f"client {data.name}: {error}") from None
        self.device = device
        self._config = config
        self._seed = seed or (lambda: config.seed)
        self._backbone = backbone
        self.answering = answering(data, config, backbone)
        self.generation: Generation | None = None
        if self.answering != CLASSES and isinstance(backbone, GenerativeBackbone):
            settings = config.eval.model_copy(update={"answers": self.answering})
            self.generation = Generation(backbone, self.task.classes, settings)
        self._prepared: dict[str, Prepared] = {}
        self._reader = PictureReader(data.pictures)
        if data.encodings is not None:
            check_encoder(data, self._fingerprint, backbone.name)
        self._extra_heads = tuple(extra_heads)
        self._heads: dict[str, nn.Module] = {}
        if config.head.init == "words":
            self._new_head(config.seed)  # an error shows now, not in the first round

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The personal heads by name: the main head, the heads of routes with their own, and a personal fusion.

        Created at the first access, and replaced by :meth:`reset_heads`.
        """
        if not self._heads:
            self.reset_heads()
        return self._heads

    def release(self) -> None:
        """Release the heads and the prepared examples; both are made again when needed."""
        self._heads = {}
        self._prepared.clear()

    def reset_heads(self) -> None:
        """Reset all heads to the same initialisation, which depends only on the client's seed and name.

        Raises:
            ConfigError: ``head.init`` is ``words`` and the backbone has no masked-word head.
        """
        head = self._new_head(self._seed()).to(self.device).requires_grad_(self._config.head.lr > 0)
        self._heads = {MAIN_HEAD: head} | {name: copy.deepcopy(head) for name in self._extra_heads}
        fusion = self._backbone.personal_fusion() if isinstance(self._backbone, FusedBackbone) else None
        if fusion is not None:
            self._heads[FUSION] = fusion.to(self.device)

    def pooled(self, features: Tensor) -> Tensor:
        """Return a backbone's features as the heads expect them, after the personal fusion if there is one."""
        return self.heads[FUSION](features) if FUSION in self.heads else features

    def _new_head(self, seed: int) -> nn.Module:
        if self.generation is not None and isinstance(self._backbone, GenerativeBackbone):
            return self._backbone.answer_head()
        words = None
        torch.manual_seed(derive(seed, self.name, "head"))
        if self._config.head.init == "words" and self.data.answers:
            words = self._backbone.word_head(self.data.answers)
            if words is None:
                raise ConfigError(f"head.init: words, but model {self._backbone.name} has no masked-word head")
        return self.task.build_head(self._backbone.feature_dim, words)

    @phase("inputs")
    def prepared(self, split: str) -> Prepared:
        """Return ``train``, ``validation`` or ``test``, encoded at the first call.

        Raises:
            DataError: an example cannot be used; the message names the client, the split and the example.
        """
        if split not in self._prepared:
            examples = self.data.split(split)
            try:
                views, targets = self._encode(examples), self.task.targets(examples)
                answers = self._annotated(examples) if split == "train" else None
            except DataError as error:
                raise DataError(f"client {self.name}, {split}: {error}") from None
            if told := self._reader.notes.news():
                log.warning("client %s: pictures: %s", self.name, told)
            self._prepared[split] = Prepared(views, targets.to(self.device), len(examples), answers)
        return self._prepared[split]

    @phase("inputs")
    def inputs(self, views: EncodedViews, indices: Tensor) -> dict[str, Tensor]:
        """Return the backbone's inputs for the examples at ``indices`` (N,): N * V rows, grouped by example."""
        count = self.task.views_per_example
        rows = indices if count == 1 else (indices[:, None] * count + torch.arange(count)).flatten()
        return views.batch(rows, self.device)

    @phase("inputs")
    def training_inputs(self, part: Prepared, indices: Tensor) -> dict[str, Tensor]:
        """Return the inputs of the examples at ``indices`` (N,), with the annotated answers if the member writes."""
        inputs = self.inputs(part.views, indices)
        return inputs if part.answers is None else inputs | part.answers.batch(indices, self.device)

    def batches(self, part: Prepared, size: int) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Yield the inputs and the targets of a split in order, in batches of ``size``."""
        for indices in torch.arange(part.size).split(size):  # type: ignore[no-untyped-call]
            yield self.inputs(part.views, indices), part.targets_at(indices)

    @phase("inputs")
    def encode_unseen(self, examples: Sequence[Example]) -> EncodedViews:
        """Return the encoded views of examples that belong to no split; the views are not kept."""
        return encode_views(self._backbone.encoder, self._views(examples), self._reader)

    def encode_for_probe(self, examples: Sequence[Example]) -> EncodedViews:
        """Return the encoded views of examples of a split; the views are not kept, and a cache is used if present."""
        # Without a cache, the pictures are read again later; their changes are counted then.
        return self._encode(examples, None if self.data.encodings else PictureReader(self.data.pictures))

    def digest(self) -> str:
        """Return a short hash of the class names in index order; heads fit only data with the same hash."""
        text = "\x1f".join((self.data.task, *self.task.classes))
        if self.answering == CLASSES and isinstance(self._backbone, GenerativeBackbone):
            text += "\x1f\x1fclasses"  # this head is not a vocabulary head
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def _encode(self, examples: Sequence[Example], reader: PictureReader | None = None) -> EncodedViews:
        reader = reader or self._reader
        if self.data.encodings is None:
            return encode_views(self._backbone.encoder, self._views(examples), reader)
        # Opened again for every split; otherwise every client would hold an index of the whole cache in memory.
        cache = EncodingCache(self.data.encodings, self._fingerprint)
        return encode_cached(self._backbone.encoder, self._views(examples), cache, reader)

    @property
    def _fingerprint(self) -> str:
        """Fingerprint of the encoder and the picture settings, which determine how examples are encoded."""
        return self.data.pictures.fingerprint(self._backbone.encoder.fingerprint)

    def _annotated(self, examples: Sequence[Example]) -> AnnotatedAnswers | None:
        if not examples or self.generation is None or not isinstance(self._backbone, GenerativeBackbone):
            return None
        return AnnotatedAnswers(examples, self._backbone)

    def _views(self, examples: Sequence[Example]) -> list[View]:
        return [view for example in examples for view in self.task.views(example)]


def answering(data: ClientData, config: RunConfig, backbone: Backbone) -> str:
    """Return how a client answers, one of :data:`feddat.example.ANSWERING`.

    Raises:
        DataError: the task or the backbone does not support the client's way of answering.
    """
    asked = data.answering
    if not isinstance(backbone, GenerativeBackbone):
        if asked not in (None, CLASSES):
            raise DataError(f"client {data.name}: answers: {asked}, but model {backbone.name} has only classes")
        return CLASSES
    if data.task != "vqa":  # the classes of other tasks are not worded answers
        if asked not in (None, CLASSES):
            raise DataError(f"client {data.name}: answers: {asked}, but task {data.task} has only classes")
        asked = CLASSES
    asked = asked or config.eval.answers
    if asked == CLASSES and not isinstance(backbone, ReadingBackbone):
        raise DataError(
            f"client {data.name}: model {backbone.name} only writes answers; expected task vqa with answers rank or "
            "generate"
        )
    return asked
