"""Write a run's model as the folder of an exported model (:mod:`feddat.experiment.exports.folder`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from feddat.adapters.base import Part
from feddat.adapters.combine import factored
from feddat.adapters.peft_form import PeftForm, put_peft, save_peft
from feddat.algorithms.base import MAIN_HEAD
from feddat.app.checkpoint import ServerState
from feddat.client.member import FUSION
from feddat.client.trained import TrainedModel
from feddat.experiment.exports.card import Origin, write_card
from feddat.experiment.exports.folder import (
    ANSWERS_FILE,
    FUSION_FILE,
    HEAD_FILE,
    ExportError,
    ExportInfo,
    is_export,
)
from feddat.experiment.single.federation import Federation
from feddat.experiment.single.folder import disk_errors
from feddat.experiment.single.foundation import Foundation, answering_state
from feddat.files import whole_folder, write_json
from feddat.models.catalog import model_folder
from feddat.models.standalone import Head, Shape, save_standalone, stock_class
from feddat.models.two_towers.fusion import FusedBackbone
from feddat.tensorfile import write_tensors

#: Number formats for the weights of a merged model.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Kinds of adapter that cannot be merged into the model's weights -> reason.
UNMERGEABLE = {
    "bottleneck": "bottlenecks are separate layers with a ReLU, which no weight of the model can represent",
    "prompt": "prompts are inputs, which no weight of the model can represent",
}
_SHAPES: Mapping[str, Shape] = {"nlvr2": "pair", "vcr": "scorer"}


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is exported.

    Attributes:
        merge: write a complete model, with the adapter merged into its weights.
        dtype: number format of a merged model's weights, a key of :data:`DTYPES`.
        base: name of the foundation model in the folder; default: its name in the run.
        overwrite: replace an exported model that already exists.
    """

    merge: bool = False
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    base: str | None = None
    overwrite: bool = False


def client_model(federation: Federation, state: ServerState, client: str, route: str | None) -> TrainedModel:
    """Return a client's model on a route; default: the method's own route.

    Raises:
        ExportError: there is no such client or route, or the route cannot be expressed as one adapter.
    """
    if client not in federation.data:
        raise ExportError(f"client {client!r}: not in this run; clients are {', '.join(federation.data)}")
    owner = federation.owner(client)
    try:
        return owner.trained(answering_state(federation.foundation, state, owner.name), client, route)
    except ValueError as error:
        raise ExportError(str(error)) from None


def shared_model(foundation: Foundation, state: ServerState, route: str | None) -> TrainedModel:
    """Return the model with the global adapter, which all clients share.

    Raises:
        ExportError: there is no global adapter, clients keep parts of it, or another route is requested.
    """
    algorithm, adapters = foundation.algorithm, foundation.adapters
    if not algorithm.communicates:
        raise ExportError(f"method {algorithm.name}: there is no shared adapter; give --client")
    if route not in (None, "global"):
        raise ExportError(f"route {route!r}: belongs to a client; give --client")
    if kept := [key for key in adapters.named("global") if algorithm.trains_key(key) and not algorithm.shares(key)]:
        raise ExportError(
            f"method {algorithm.name}: clients do not share {kept[0]} and other parameters; give --client"
        )
    extras = answering_state(foundation, state).extras or {}
    added = {site: value for site, value in extras.items() if site in set(adapters.sites)}
    return TrainedModel("global", [(1.0, foundation.initial_global() | state.shared)], added)


def export(
    folder: Path, foundation: Foundation, trained: TrainedModel, origin: Origin, options: Options = Options()
) -> Path:
    """Write a model to a folder, completely or not at all.

    Raises:
        ExportError: the folder is not free, or the model cannot be exported in this form.
        ModelError: the foundation model's folder can no longer be read.
    """
    _check_target(folder, options.overwrite)
    kind = str(foundation.config.adapter.peft)
    parts, fusions = _fusion_apart(trained, foundation)
    if products := factored(trained.added):
        parts = [*parts, (1.0, products)]
    if options.merge and parts and kind in UNMERGEABLE:
        raise ExportError(f"--merge: {UNMERGEABLE[kind]}; leave out --merge")
    try:
        form, state = foundation.adapters.combined(parts) if parts else (None, {})
    except ValueError as error:
        raise ExportError(f"route {trained.route!r}: {error}") from None
    if state and form is None and not options.merge:
        raise ExportError(f"adapter.peft {kind} trains the model itself, without an adapter; give --merge")
    made = _Model(foundation, trained, form, state, fusions, options)
    with disk_errors(folder), whole_folder(folder) as place:
        info = made.write(place)
        write_card(place, info, origin, trained.member is not None)
    return folder


@dataclass(frozen=True, slots=True)
class _Model:
    """The model to write, without its card."""

    foundation: Foundation
    trained: TrainedModel
    form: PeftForm | None
    state: dict[str, Tensor]
    fusions: Sequence[Part]
    options: Options

    @property
    def base(self) -> str:
        """Name of the foundation model in the folder."""
        return self.options.base or self.foundation.config.model

    def write(self, folder: Path) -> ExportInfo:
        """Write all files except the card."""
        head, prefix = self._head(), None
        if self.options.merge:
            source = model_folder(self.foundation.config.model)
            untied = bool(self.state) and self.form is None
            dtype = DTYPES[self.options.dtype]
            prefix = save_standalone(source, folder, self._merge, head, untied, dtype)
        elif self.form is not None:
            save_peft(folder, self.form, self.state, self.base, stock_class(self.foundation.backbone.model))
        if head is not None and prefix is None and head.state:
            write_tensors(folder / HEAD_FILE, head.state, {"format": "pt"})
        if self.fusions:
            tensors = {f"{n}.{key}": value for n, (_, part) in enumerate(self.fusions) for key, value in part.items()}
            write_tensors(folder / FUSION_FILE, tensors, {"format": "pt"})
        if self.trained.member is not None:
            write_json(folder / ANSWERS_FILE, list(self.trained.member.task.classes))
        info = self._info(prefix)
        info.write(folder)
        return info

    def _merge(self, part: nn.Module) -> None:
        """Merge the trained parameters into the weights of a model, in place."""
        if self.form is not None:
            put_peft(part, self.form.config, self.form.tensors(self.state)).merge_and_unload()
            return
        with torch.no_grad():
            for key, value in self.state.items():
                part.get_parameter(key).copy_(value)

    def _head(self) -> Head | None:
        member = self.trained.member
        if member is None:
            return None
        shape = "vocabulary" if member.generation is not None else _SHAPES.get(member.task.name, "classifier")
        if self._head_init() == "words":
            shape = "other"
        labels = () if member.generation is not None else member.task.classes
        return Head(shape, dict(self.trained.heads[MAIN_HEAD].state_dict()), labels)

    def _head_init(self) -> Literal["random", "words"]:
        """Return how the head was initialised; always at random if the classes are not words."""
        member = self.trained.member
        words = self.foundation.config.head.init == "words" and member is not None and member.data.answers
        return "words" if words and member is not None and member.generation is None else "random"

    def _info(self, head_prefix: str | None) -> ExportInfo:
        foundation, member = self.foundation, self.trained.member
        config = foundation.config
        return ExportInfo(
            model=self.base,
            family=foundation.backbone.family,
            weights=foundation.model["weights"],
            encoder=foundation.model["encoder"],
            format=config.weights,
            kind=str(config.adapter.peft) if self.state else "head",
            route=self.trained.route,
            merged=self.options.merge,
            pictures={} if member is None else member.data.pictures.deciding(),
            task=None if member is None else member.task.name,
            answering=None if member is None else member.answering,
            rank_top=config.eval.rank_top,
            head_init=None if member is None else self._head_init(),
            head_prefix=head_prefix,
            fusion=config.fusion.kind,
            fusion_weights=[weight for weight, _ in self.fusions],
        )


def _fusion_apart(trained: TrainedModel, foundation: Foundation) -> tuple[list[Part], list[Part]]:
    """Return the adapters without fusions of two towers, and the fusions, which stock models do not have."""
    if (personal := trained.heads.get(FUSION)) is not None:
        return list(trained.parts), [(1.0, personal.state_dict())]
    if not isinstance(foundation.backbone, FusedBackbone) or foundation.config.fusion.side != "shared":
        return list(trained.parts), []
    prefix = f"{FUSION}."
    adapters: list[Part] = []
    fusions: list[Part] = []
    for weight, state in trained.parts:
        adapters.append((weight, {key: value for key, value in state.items() if not key.startswith(prefix)}))
        found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        fusions.append((weight, {key.removeprefix("whole."): value for key, value in found.items()}))
    return adapters, fusions


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ExportError(
            f"folder {folder}: not empty; choose another folder, or replace an exported model with --overwrite"
        )
    if not is_export(folder):
        raise ExportError(f"folder {folder}: not an exported model; --overwrite replaces only exported models")
