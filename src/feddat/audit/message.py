"""One client's message to a server that chooses settings, model and adapter so that the message gives data away."""

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

#: An update of one step is this many times the gradient, if nothing forbids it: a smaller one would drown in the
#: weights' rounding. An update of several steps is the sum of gradients, so the model must hardly move between them.
SCALE = 1e8
#: With these settings a step of AdamW passes the gradient on unchanged: beside such an eps its size does not count.
_PASSED_ON = {"train.eps": 1e4, "train.weight_decay": 0.0, "train.warmup": 0.0}
#: The same within a client's default policy.
_ALLOWED = {"train.lr": 0.01, "train.eps": 1e-6, "train.weight_decay": 0.0, "train.warmup": 0.0}


@dataclass(frozen=True, slots=True)
class Message:
    """A client's message, with what is needed to judge an attack on it.

    Attributes:
        federation: model and client; until the message is closed, the model is as the server made it.
        update: what training added to the shared part, by name.
        examples: the training examples.
    """

    federation: Federation
    update: dict[str, Tensor]
    examples: tuple[Example, ...]


def settings(config: RunConfig, batch: int, steps: int, changes: Mapping[str, Any], allowed: bool) -> RunConfig:
    """Return the settings of an attack on a run's model, within the default policy if ``allowed``."""
    # The server decides how the adapter begins, where it is, how wide it is, and in which form it travels.
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
    if hasattr(config, "privacy"):  # the server has to ask for privacy, and this one does not
        values["privacy.epsilon"] = None
    return config.updated(values | dict(changes))


def refusal(config: RunConfig, examples: int) -> str | None:
    """Return why a client with the default policy refuses; ``None``: it takes part."""
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
    """Give the message of a client that trains for one round on all of its data; afterwards, restore the model.

    Args:
        config: settings of the round.
        data: the client's; it trains once on each training example.
        folder: for the client's state.
        alter: changes the foundation model's weights in place.
        craft: turns the shared part that the run would begin with into the one that the server sends.

    Raises:
        AuditError: the model is no ViLT; the attacks are made for its layers.
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
        AuditError: the model has no ViLT.
    """
    for module in model.modules():
        if isinstance(module, ViltModel):
            return module
    raise AuditError("reconstruction: the attacks are made for ViLT; use --no-reconstruction for other models")


def embedded(vilt: ViltModel, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the first layer's input, (N, text + image tokens, d), for a batch of a ViLT's inputs."""
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
    """Leave the model unchanged."""


def of(data: ClientData, examples: Sequence[Example]) -> ClientData:
    """Return the client with only these training examples."""
    return replace(data, train=tuple(examples))
