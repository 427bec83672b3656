"""One message of one client, to a server that chooses settings, model and adapter so that it gives data away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ViltModel

from feddat.app.policy import PolicyError, check_settings, check_training
from feddat.audit.errors import AuditError
from feddat.config import PolicyConfig, RunConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.federation import Federation, build_federation

#: An update of one step is this many times the gradient, where nothing forbids it: small ones would drown in the
#: weights' rounding. Of several steps it is the sum of gradients: the model must stay where they are taken.
SCALE = 1e8
#: Settings by which a step of AdamW passes the gradient on as it is: beside such an eps its own size does not count.
_PASSED_ON = {"train.eps": 1e4, "train.weight_decay": 0.0, "train.warmup": 0.0}
#: The same as far as a client's default policy lets it.
_ALLOWED = {"train.lr": 0.01, "train.eps": 1e-6, "train.weight_decay": 0.0, "train.warmup": 0.0}


@dataclass(frozen=True, slots=True)
class Message:
    """What came back.

    Attributes:
        federation: model and client; the model is as the server made it while the message is looked at.
        update: what training added to each array of the shared part.
        examples: those that were trained on.
    """

    federation: Federation
    update: dict[str, Tensor]
    examples: tuple[Example, ...]


def settings(config: RunConfig, batch: int, steps: int, changes: Mapping[str, Any], allowed: bool) -> RunConfig:
    """Return settings of an attack on a run's model: of a server that may do anything, or what a policy lets it do."""
    # What the run's adapter begins as, where and how wide it is, and what travels in which form, is the server's.
    values: dict[str, Any] = {
        **{"method": "fedavg", "rounds": 1, "cache_prefix": 0, "head.init": "random", "train.precision": "fp32"},
        **{
            "train.batch_size": batch,
            "train.steps": steps,
            "train.epochs": 1,
            "train.lr_schedule": "constant",
            "train.clip_norm": None,
        },
        **{"adapter.start": None, "adapter.start_local": None, "adapter.sites": None, "adapter.layers": None},
        **{"server.rule": "mean", "wire.format": "fp32", "wire.delta": False, "model_weights": None},
        **{"momentum.alpha": 0.0, "algorithm.options": {}, "train.trap": "none"},
        **(_ALLOWED if allowed else _PASSED_ON | {"train.lr": 1e4 * (SCALE if steps == 1 else 1.0)}),
    }
    if hasattr(config, "privacy"):  # that is the server's to ask for, and this one does not
        values["privacy.epsilon"] = None
    return config.updated(values | dict(changes))


def refusal(config: RunConfig, examples: int) -> str | None:
    """Return why a client with the default policy does not take part; ``None``: it does."""
    try:
        check_settings(PolicyConfig(), config)
        check_training(PolicyConfig(), config, examples)
    except PolicyError as error:
        return str(error)
    return None


@contextmanager
def received(
    config: RunConfig,
    data: ClientData,
    folder: Path,
    alter: Callable[[ViltModel], None],
    craft: Callable[[Federation, dict[str, Tensor]], dict[str, Tensor]],
) -> Iterator[Message]:
    """Give the message of a client that trains for one round on all of its data; the model is put back in the end.

    Args:
        config: settings of the round.
        data: whose training examples are trained on, each once.
        folder: for the client's state.
        alter: changes the foundation model's weights, in place.
        craft: makes the shared part that is sent out of the one that the run would begin with.

    Raises:
        AuditError: the model is no ViLT, whose layers these attacks are made for.
    """
    federation = build_federation(config, [data], folder)
    foundation = federation.foundation
    vilt = vilt_of(foundation.backbone.model)
    kept = {name: value.clone() for name, value in foundation.backbone.model.state_dict().items()}
    try:
        with torch.no_grad():
            alter(vilt)
        sent = craft(federation, foundation.initial_shared())
        (participant,) = federation.participants.values()
        result = participant.fit({key: value.clone() for key, value in sent.items()}, 1)
        update = {key: value - sent[key] for key, value in (result.shared or {}).items()}
        # Full training moves the model itself: attackers know what they sent.
        foundation.adapters.load("global", foundation.adapters.state("global") | sent)
        yield Message(federation, update, data.train)
    finally:
        foundation.backbone.model.load_state_dict(kept)


def vilt_of(model: nn.Module) -> ViltModel:
    """Return the ViLT in a model with adapters.

    Raises:
        AuditError: there is none.
    """
    for module in model.modules():
        if isinstance(module, ViltModel):
            return module
    raise AuditError("reconstruction: its attacks are made for ViLT; use --no-reconstruction for other models")


def embedded(vilt: ViltModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what enters the first layer, (N, text + image tokens, d), for a batch of a ViLT's inputs."""
    with torch.no_grad():
        states: Tensor = vilt.embeddings(
            inputs["input_ids"],
            inputs["attention_mask"],
            None,
            inputs["pixel_values"],
            inputs["pixel_mask"],
            None,
            None,
            1,
        )[0]
    return states


def unaltered(vilt: ViltModel) -> None:
    """Leave a model as it is."""


def of(data: ClientData, examples: Sequence[Example]) -> ClientData:
    """Return a client with these training examples alone."""
    return replace(data, train=tuple(examples))
