"""One client's message to a server that chooses settings, model and adapter so that the message gives data away."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import ViltModel

from feddat.algorithms import ALGORITHMS
from feddat.app import wire
from feddat.app.policy import PolicyError, check_settings, check_training
from feddat.app.secure_strategy import uses_sums
from feddat.audit.errors import AuditError
from feddat.audit.sums import opened
from feddat.client.member import Member
from feddat.client.private_rules import check_privacy
from feddat.config import ConfigError, PolicyConfig, RunConfig
from feddat.config.sections import WireConfig
from feddat.example import ClientData, Example
from feddat.experiment.single.federation import Federation, build_federation

#: Clients under attack: one that does whatever it is asked, one with the default policy, and one of the run itself,
#: with the run's settings.
Kind: TypeAlias = Literal["obeys", "policy", "run"]
#: An update of one step is this many times the gradient, if nothing forbids it: a smaller one would drown in the
#: weights' rounding. An update of several steps is the sum of gradients, so the model must hardly move between them.
SCALE = 1e8
#: With these settings a step of AdamW passes the gradient on unchanged: beside such an eps its size does not count.
_PASSED_ON = {"train.eps": 1e4, "train.weight_decay": 0.0, "train.warmup": 0.0}
#: The same within a client's default policy.
_ALLOWED = {"train.lr": 0.01, "train.eps": 1e-6, "train.weight_decay": 0.0, "train.warmup": 0.0}


@dataclass(frozen=True, slots=True)
class Target:
    """What is attacked, and what the attacker has.

    Attributes:
        config: the run's settings, with an algorithm's name as method.
        clients: the run's clients; the first is the one whose message is attacked.
        known: the attacker's own examples, which are like that client's.
    """

    config: RunConfig
    clients: tuple[ClientData, ...]
    known: tuple[Example, ...]

    @property
    def victim(self) -> ClientData:
        """The client whose message is attacked."""
        return self.clients[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one attack asks for, and of whom.

    Attributes:
        kind: of client.
        config: the settings.
        clients: those whose messages the attacker sees: one, or all whose sum it sees.
        refused: why the client does not take part, or why the attack is not possible; ``None``: it goes ahead.
    """

    kind: Kind
    config: RunConfig
    clients: tuple[ClientData, ...]
    refused: str | None = None

    @property
    def examples(self) -> int:
        """Number of training examples behind the message."""
        return sum(len(data.train) for data in self.clients)

    @property
    def steps(self) -> int:
        """Number of steps of one client."""
        train = self.config.train
        return train.steps or train.epochs * -(-len(self.clients[0].train) // train.batch_size)


@dataclass(frozen=True, slots=True)
class Message:
    """What the server sees of a round, with what is needed to judge an attack on it.

    Attributes:
        federation: model and clients; until the message is closed, the model is as the server made it.
        update: what training added to the shared part, by name: of one client, or summed over all.
        sent: the shared part that the server sent.
        name: of the client that is attacked.
    """

    federation: Federation
    update: dict[str, Tensor]
    sent: dict[str, Tensor]
    name: str

    @property
    def members(self) -> list[Member]:
        """The clients behind the message."""
        return [member for one in self.federation.participants.values() for member in one.members.values()]

    @property
    def victim(self) -> Member:
        """The client that is attacked."""
        return next(member for member in self.members if member.name == self.name)

    @property
    def vilt(self) -> ViltModel:
        """The model."""
        return vilt_of(self.federation.foundation.backbone.model)


def ask(target: Target, kind: Kind, batch: int, steps: int, changes: Mapping[str, Any], adapter: str) -> Asked:
    """Return what an attack asks of a client.

    Args:
        target: see there.
        kind: of client. A client of the run has its own settings, its privacy and its secure sums; the server chooses
            only the adapter that it sends, which nobody can check.
        batch, steps: of the message; a client of the run has its own.
        changes: further settings that the attack asks for, except of a client of the run.
        adapter: kind of adapter that the attack needs.
    """
    if kind == "run":
        config = run_settings(target)
        sums = config.secure_aggregation.enabled
        return Asked(kind, config, target.clients if sums else target.clients[:1], impossible(config, target, adapter))
    config = settings(target.config, batch, steps, {"adapter.peft": adapter, **changes}, kind == "policy")
    if kind == "policy":
        config = config.updated({"privacy.guarded_steps": PolicyConfig().guarded_steps})
    clients = (of(target.victim, target.victim.train[: batch * steps]),)
    refused = refusal(config, len(clients[0].train)) if kind == "policy" else None
    return Asked(kind, config, clients, refused)


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
        **{"privacy.guarded_steps": False, "momentum.alpha": 0.0, "algorithm.options": {}, "train.trap": "none"},
        # The server has to ask for privacy and for sums, and this one does not.
        **{"privacy.epsilon": None, "secure_aggregation.enabled": False},
        **(_ALLOWED if allowed else _PASSED_ON | {"train.lr": 1e4 * (SCALE if steps == 1 else 1.0)}),
    }
    return config.updated(values | dict(changes))


def run_settings(target: Target) -> RunConfig:
    """Return the run's own settings.

    A method whose server sends arrays of its own cannot be played without that server; FedAvg takes its place.
    """
    algorithm = ALGORITHMS[target.config.method]
    changes: dict[str, Any] = {"cache_prefix": 0}
    if algorithm.server is not None:
        changes["method"] = "fedavg"
    return target.config.updated(changes)


def impossible(config: RunConfig, target: Target, adapter: str) -> str | None:
    """Return why an attack cannot be made on a client of the run; ``None``: it can."""
    algorithm = ALGORITHMS[config.method]
    if algorithm.centralised or not algorithm.communicates:
        return f"not possible: with {config.method} no update leaves a client"
    if (config.adapter.peft or "bottleneck") != adapter:
        return f"not possible: it needs an adapter of kind {adapter}, and the run's is {config.adapter.peft}"
    least = config.secure_aggregation.min_clients
    if config.secure_aggregation.enabled and len(target.clients) < least:
        return f"not possible: a sum of {len(target.clients)} clients is not opened, only of {least} or more"
    return None


def refusal(config: RunConfig, examples: int) -> str | None:
    """Return why a client with the default policy refuses; ``None``: it takes part."""
    try:
        check_settings(PolicyConfig(), config)
        check_privacy(config)
        check_training(PolicyConfig(), config, examples)
    except (PolicyError, ConfigError) as error:
        return str(error)
    return None


@contextmanager
def received(
    asked: Asked,
    folder: Path,
    alter: Callable[[ViltModel], None],
    craft: Callable[[Federation, dict[str, Tensor]], dict[str, Tensor]],
) -> Iterator[Message]:
    """Give what the server sees of clients that train for one round; afterwards, restore the model.

    The clients run with everything that their settings promise: clipping, noise, the wire format, and secure sums, of
    which the server sees only the total.

    Args:
        asked: settings and clients.
        folder: for the clients' states.
        alter: changes the foundation model's weights in place.
        craft: turns the shared part that the run would begin with into the one that the server sends.

    Raises:
        AuditError: the model is no ViLT; the attacks are made for its layers.
    """
    config = asked.config
    federation = build_federation(config, asked.clients, folder)
    foundation = federation.foundation
    vilt = vilt_of(foundation.backbone.model)
    kept = {name: value.clone() for name, value in foundation.backbone.model.state_dict().items()}
    try:
        with torch.no_grad():
            alter(vilt)
        sums = uses_sums(config, foundation.algorithm)
        down = config.wire.model_copy(update={"delta": False})
        sent = travelled(craft(federation, foundation.initial_shared()), down)
        updates = []
        for participant in federation.participants.values():
            result = participant.fit({key: value.clone() for key, value in sent.items()}, 1)
            shared = {key: value.detach().cpu().float() for key, value in (result.shared or {}).items()}
            shared = shared if sums else travelled(shared, config.wire, sent)
            updates.append({key: value - sent[key] for key, value in shared.items()})
        # Full training moves the model itself: attackers know what they sent.
        foundation.adapters.load("global", foundation.adapters.state("global") | sent)
        yield Message(federation, opened(updates, config) if sums else updates[0], sent, asked.clients[0].name)
    finally:
        foundation.backbone.model.load_state_dict(kept)


def travelled(
    state: Mapping[str, Tensor], form: WireConfig, base: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return tensors as they arrive after travelling in a format; ``base`` is subtracted on the way, if it says so."""
    base = base if form.delta else None
    arrived = wire.unpack(wire.pack(state, form, base)[0], form, base)
    return {key: torch.from_numpy(value.copy()) for key, value in arrived.items()}


def vilt_of(model: nn.Module) -> ViltModel:
    """Return the ViLT in a model with adapters.

    Raises:
        AuditError: the model has no ViLT.
    """
    for module in model.modules():
        if isinstance(module, ViltModel):
            return module
    raise AuditError("reconstruction: the attacks are made for ViLT; use --no-reconstruction for other models")


def unaltered(vilt: ViltModel) -> None:
    """Leave the model unchanged."""


def of(data: ClientData, examples: Sequence[Example]) -> ClientData:
    """Return the client with only these training examples."""
    return replace(data, train=tuple(examples))
