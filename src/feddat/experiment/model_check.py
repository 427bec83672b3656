"""Check a model: its properties, its trainable parameters, and the cost of one real training step on made-up data.

The step is that of a run with the same settings: one client and one round of one step. Its memory is reported twice: as
a sum that any machine needs, and as the peak of the process on this machine.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from feddat.adapters.base import ADAPTERS
from feddat.algorithms import ALGORITHMS
from feddat.client.member import Member
from feddat.config import ConfigError, RunConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.federation import Federation, build_federation, check_sites
from feddat.experiment.single.methods import resolve
from feddat.memory import forget_peak, kernel_bytes
from feddat.precision import resolve_precision
from feddat.seeding import numpy_generator

#: The kernel's table of this process.
_STATUS = "/proc/self/status"

CLIENT = "made-up"
#: Answers of the made-up client; the paper's clients have as many.
ANSWERS = tuple(str(number) for number in range(100))
QUESTION = "what is the number of red things to the left of the small circle ?"
#: Height and width of the made-up pictures, in pixels; the model's image processor resizes them.
PICTURE = (480, 640)
#: Bytes of AdamW's two moments and of the gradient per trained parameter, in float32.
TRAINING_BYTES = 12


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one training step, in bytes.

    Attributes:
        weights: the frozen model, the three adapters and the head; with momentum distillation, also the momentum model.
        training: gradients and AdamW's moments of the trained parameters.
        saved: peak of the tensors saved for backward passes, counting each storage once and no weights.
        peak: the process's largest resident memory during the step (on a GPU: allocated); ``None`` if not measurable.
        before: resident (on a GPU: allocated) memory at the start of the step; ``None`` if not measurable.
    """

    weights: int
    training: int
    saved: int
    peak: int | None
    before: int | None

    @property
    def least(self) -> int:
        """The sum of the memory needed at once: a lower bound, without libraries and work space."""
        return self.weights + self.training + self.saved


@dataclass(frozen=True, slots=True)
class ModelCheck:
    """The result of the check.

    Attributes:
        model: name or folder.
        weights: hash of the frozen weights.
        family: model family, e.g. ``"vilt"``.
        answers: ``classes``, ``rank`` or ``generate``.
        kind: kind of adapter.
        sites: module names, with layer numbers replaced by ``N`` -> number of such modules.
        method: method of the step.
        parameters: method -> ``total``, ``trainable``, ``communicated``, and ``personal``: those trained that do not
            travel.
        left_out: method -> reason why it cannot be used with this kind of adapter.
        head: parameters of the personal head, for 100 answers.
        memory: memory of the step.
        batch_size: batch size of the step.
        loss: loss of the step.
        seconds: duration of the step.
    """

    model: str
    weights: str
    family: str
    answers: str
    kind: str
    sites: dict[str, int]
    method: str
    parameters: dict[str, dict[str, int]]
    left_out: dict[str, str]
    head: int
    memory: Memory
    batch_size: int
    loss: float
    seconds: float


def check_model(config: RunConfig) -> ModelCheck:
    """Load ``config.model``, count parameters, and train one step on made-up data; leave nothing on disk.

    Raises:
        ModelError: the folder cannot be used.
        ConfigError: a setting cannot be used on this model.
    """
    precision = resolve_precision(config.train.precision, config.device)
    train = config.train.model_copy(update={"steps": 1, "precision": precision})
    settings = resolve(config.model_copy(update={"train": train, "rounds": 1}))
    with tempfile.TemporaryDirectory() as folder:
        federation = build_federation(settings, [made_up_client(train.batch_size)], Path(folder))
        check_sites(federation)
        (participant,) = federation.participants.values()
        member = participant.members[CLIENT]
        member.prepared("train")
        counts, left_out = _counts(settings, federation, member)
        backbone = participant.backbone
        device = next(backbone.model.parameters()).device
        heads = [parameter for head in member.heads.values() for parameter in head.parameters()]
        parameters = [*backbone.model.parameters(), *heads]
        for name in ADAPTERS:
            parameters += federation.foundation.adapters.parameters(name)
        saved = SavedForBackward(parameters)
        shared, part = federation.foundation.initial_shared(), federation.foundation.algorithm.server
        extras = None if part is None else part.sends(part.start(shared))
        before = _mark(device)
        with saved.counting():
            result = participant.fit(shared or None, 1, extras)
        # Linux updates its page counts late, so the peak can be a few kB too low.
        peak = None if before is None else max(before, _peak(device) or 0)
        trains = counts[settings.method]["trainable"]
        copied = 4 * trains if settings.momentum.alpha > 0 else 0
        memory = Memory(_storage_bytes(parameters) + copied, TRAINING_BYTES * trains, saved.most, peak, before)
        return ModelCheck(
            model=config.model,
            weights=federation.foundation.model["weights"],
            family=backbone.family,
            answers=member.answering,
            kind=str(settings.adapter.peft),
            sites=group_sites(federation.foundation.adapters.sites),
            method=settings.method,
            parameters=counts,
            left_out=left_out,
            head=sum(parameter.numel() for parameter in heads),
            memory=memory,
            batch_size=train.batch_size,
            loss=result.metrics["loss"],
            seconds=result.metrics["seconds"],
        )


def made_up_client(examples: int) -> ClientData:
    """Return a client with random pictures, the same question for all of them, and 100 answers."""
    generator = numpy_generator(0, CLIENT)

    def example(number: int) -> Example:
        picture = generator.integers(0, 256, (*PICTURE, 3), dtype=np.uint8)
        return Example(str(number), (picture,), QUESTION, answers={ANSWERS[number % len(ANSWERS)]: 1.0})

    train = tuple(example(number) for number in range(examples))
    return ClientData(CLIENT, "vqa", train, train[:1], train[:1], ANSWERS)


def group_sites(names: Sequence[str]) -> dict[str, int]:
    """Return the names with numbers replaced by ``N``, and the count of each, in order of first appearance."""
    groups: dict[str, int] = {}
    for name in names:
        form = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", name)
        groups[form] = groups.get(form, 0) + 1
    return groups


class SavedForBackward:
    """Counts the bytes that autograd saves for backward passes, each storage once.

    Args:
        weights: tensors that exist anyway and do not count.

    Attributes:
        most: peak, in bytes.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.most = 0
        self._now = 0
        self._uses: dict[int, int] = {}
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the tensors that are saved inside the ``with`` block."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda kept: kept.tensor):
            yield

    def _pack(self, tensor: Tensor) -> _Kept:
        return _Kept(tensor, self)

    def add(self, tensor: Tensor) -> None:
        """Add a saved tensor to the count."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._weights:
            return
        self._uses[key] = self._uses.get(key, 0) + 1
        if self._uses[key] == 1:
            self._now += storage.nbytes()
            self.most = max(self.most, self._now)

    def drop(self, tensor: Tensor) -> None:
        """Remove a released tensor from the count."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key not in self._uses:
            return
        self._uses[key] -= 1
        if self._uses[key] == 0:
            del self._uses[key]
            self._now -= storage.nbytes()


class _Kept:
    """A saved tensor, as long as its graph keeps it."""

    def __init__(self, tensor: Tensor, counter: SavedForBackward) -> None:
        self.tensor = tensor.detach() if tensor.requires_grad and not tensor.is_leaf else tensor
        self._counter = counter
        counter.add(self.tensor)

    def __del__(self) -> None:
        self._counter.drop(self.tensor)


def _counts(
    config: RunConfig, federation: Federation, member: Member
) -> tuple[dict[str, dict[str, int]], dict[str, str]]:
    """Return the parameters of the run's method, FedDAT and FedAvg, and the reasons for methods left out."""
    counts: dict[str, dict[str, int]] = {}
    left_out: dict[str, str] = {}
    for method in dict.fromkeys((federation.foundation.algorithm.name, "feddat", "fedavg")):
        try:
            settings = resolve(config.model_copy(update={"method": method}))
        except ConfigError as error:
            left_out[method] = str(error)
            continue
        algorithm = ALGORITHMS[settings.method].for_run(settings, list(federation.foundation.adapters.named("global")))
        foundation = replace(federation.foundation, algorithm=algorithm)
        found = foundation.count(nn.ModuleList(member.heads.values()))
        beside = {} if algorithm.trains_extras else foundation.extra_shapes()
        travels = found["communicated"] - sum(math.prod(shape) for shape in beside.values())
        counts[method] = found | {"personal": found["trainable"] - travels}
    return counts, left_out


def _storage_bytes(tensors: Sequence[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _mark(device: torch.device) -> int | None:
    """Reset the peak measurement; return the memory in use now, or ``None`` if it cannot be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    return kernel_bytes(_STATUS, "VmRSS") if forget_peak() else None


def _peak(device: torch.device) -> int | None:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else kernel_bytes(_STATUS, "VmHWM")
