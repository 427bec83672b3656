"""The parts that a run's server and all clients share: frozen model, adapters, algorithm, and their hashes."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.adapters.build import build_adapters, count_parameters
from feddat.adapters.frozen import prepare_frozen
from feddat.adapters.int8_products import cannot_multiply
from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.algorithms.server import Shapes
from feddat.app.checkpoint import ServerState
from feddat.client.private_rules import check_privacy, check_server_part
from feddat.client.received import Received
from feddat.client.trainer import evaluated_routes
from feddat.config import AdapterConfig, ConfigError, FusionConfig, RunConfig
from feddat.devices import device_of
from feddat.experiment.single.places import CLIENTS_OWN
from feddat.experiment.single.starting import check_starts
from feddat.models.base import Backbone
from feddat.models.number_formats import Format
from feddat.models.two_towers.fusion import FusedBackbone
from feddat.models.weights import original_hash
from feddat.phases import phase
from feddat.precision import Resolved, resolve_precision
from feddat.seeding import torch_generator


@dataclass(frozen=True)
class Foundation:
    """The parts that a run's server and all clients share.

    Attributes:
        config: the run, with an algorithm's name as method.
        backbone: the frozen model.
        adapters: adapters on the frozen model, shared by all participants of the process.
        algorithm: the local objective.
        model: hashes of what must be the same everywhere: ``weights`` (frozen), ``encoder`` (tokenizer, image
            processing, the model's configuration), ``adapter`` (its sites and shapes) and ``settings`` of the run.
    """

    config: RunConfig
    backbone: Backbone
    adapters: Adapters
    algorithm: Algorithm
    model: dict[str, str]

    def initial_shared(self) -> dict[str, Tensor]:
        """Return the adapter of the first round, which depends only on the seed; empty if nothing is communicated."""
        if not self.algorithm.communicates:
            return {}
        return {key: value for key, value in self.initial_global().items() if self.algorithm.shares(key)}

    def initial_global(self) -> dict[str, Tensor]:
        """Return the initial global adapter, which depends only on the seed."""
        self.adapters.initialise(torch_generator(self.config.seed, "server", "adapter"), "global")
        return self.adapters.state("global")

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the adapter that is sent, without extra arrays; empty if nothing is communicated."""
        if not self.algorithm.communicates:
            return {}
        named = self.adapters.named("global").items()
        return {key: tuple(value.shape) for key, value in named if self.algorithm.shares(key)}

    def extra_shapes(self) -> Shapes:
        """Return the shapes of the extra arrays that a client sends with its adapter."""
        if (part := self.algorithm.server) is None:
            return {}
        shared = self.shared_shapes()
        return part.expects({key: torch.empty(shape, device="meta") for key, shape in shared.items()})

    def received(self, state: ServerState) -> int:
        """Return how many numbers a client receives for training in a state after at least one round."""
        part = self.algorithm.server
        extras = {} if part is None else part.sends(state.rule)
        return sum(tensor.numel() for tensor in (*state.shared.values(), *extras.values()))

    def routes(self, final: bool) -> tuple[str, ...]:
        """Return the routes that are scored; the method's own answer comes first."""
        return evaluated_routes(self.algorithm, self.config.algorithm, final)

    def route_name(self, route: str) -> str:
        """Return the name of a route in metrics; the only route of a method is called ``score``."""
        return route if len(self.algorithm.routes) > 1 else "score"

    def count(self, heads: nn.Module | None = None) -> dict[str, int]:
        """Count the parameters of one client with these heads.

        Returns:
            ``total``: the model with the method's adapters and the heads. ``trainable``: what trains, without the few
            numbers by which some methods weigh their adapters. ``communicated``: all numbers that a client sends in a
            round, extra arrays included.
        """
        algorithm = self.algorithm
        counts = count_parameters(
            self.adapters,
            trains=algorithm.trains,
            trains_key=algorithm.trains_key,
            shares=algorithm.shares if algorithm.communicates else None,
            head=heads,
        )
        extras = sum(math.prod(shape) for shape in self.extra_shapes().values())
        grown = ("total", "trainable", "communicated") if algorithm.trains_extras else ("communicated",)
        return {key: count + extras * (key in grown) for key, count in counts.items()}


def answering_state(foundation: Foundation, state: ServerState, participant: str | None = None) -> Received:
    """Return what a participant receives of a state to answer from.

    ``participant`` is its name; ``None`` asks for the extra arrays that are the same for all.
    """
    server = foundation.algorithm.server
    extras = None
    if server is not None:
        apart = server.apart and participant is not None
        extras = dict(server.answers_to(state.rule, participant or "") if apart else server.answers(state.rule))
    return Received(state.shared or None, state.round, state.round == foundation.config.rounds, extras)


@phase("loading")
def load_foundation(config: RunConfig) -> Foundation:
    """Load the parts that the server and every client of a run need.

    The model is kept for the next run of this process, which resets all adapters. So only one run of a process can
    be in use at a time.

    Raises:
        ConfigError: the adapter or the device cannot be used, or the weights are not the expected ones.
        ModelError: the model cannot be used.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    _check_format(config)
    check_privacy(config)
    backbone, adapters, weights = _load_model(
        config.model,
        config.weights,
        config.adapter.without_start(),
        config.fusion,
        config.train.checkpointing,
        str(device_of(config.device)),
        products="fp32" if _moved_weights(config) else resolve_precision(config.train.precision, config.device),
    )
    if checks_weights(config) and config.model_weights not in (None, weights):
        raise ConfigError(
            f"model_weights: expected {config.model_weights}, but model {config.model} has {weights}: these are not "
            "the weights that the run began with or that the consortium agreed on"
        )
    algorithm = ALGORITHMS[config.method].for_run(config, list(adapters.named("global")))
    _check(algorithm, config)
    if config.privacy.of_clients:
        check_server_part(algorithm)
    check_starts(config.adapter, algorithm, list(adapters.named("global")))
    sites = {key: list(value.shape) for key, value in adapters.named("global").items()}
    model = {
        "weights": weights,
        "encoder": backbone.encoder.fingerprint[:16],
        "adapter": _hash(json.dumps(sites)),
        "settings": _hash(json.dumps(_common(config), sort_keys=True)),
    }
    return Foundation(config, backbone, adapters, algorithm, model)


def checks_weights(config: RunConfig) -> bool:
    """Return whether ``model_weights``, the hash of float32 weights, is that of a run's weights."""
    return config.weights == "fp32"


def model_hashes(model: str) -> dict[str, str]:
    """Return the hashes of a model's weights and encoder, as in :attr:`Foundation.model`, with default settings.

    Raises:
        ModelError: the model cannot be used.
    """
    from feddat.models.catalog import load_backbone

    backbone = load_backbone(model)
    return {"weights": original_hash(backbone), "encoder": backbone.encoder.fingerprint[:16]}


def _check(algorithm: Algorithm, config: RunConfig) -> None:
    """Raise ``ConfigError`` if the algorithm cannot do its part with these heads."""
    if config.fusion.side == "personal" and config.fusion.kind == "transformer" and config.head.lr == 0:
        raise ConfigError("head.lr: 0, but a personal fusion trains at the head's rate")
    if algorithm.trains_head_alone and config.head.lr == 0:
        raise ConfigError(f"head.lr: 0, but {algorithm.name} has steps in which only the head trains")


def _check_format(config: RunConfig) -> None:
    """Raise ``ConfigError`` if weights would have to train or move in a format that does not allow it."""
    if config.weights != "fp32" and (reason := _moved_weights(config)):
        raise ConfigError(f"weights: {config.weights}, but {reason}")
    if config.train.precision == "int8":
        if reason := _moved_weights(config) or cannot_multiply(config.device):
            raise ConfigError(f"train.precision: int8, but {reason}")
        if config.weights in ("int8", "int4"):
            raise ConfigError(f"train.precision: int8, but weights: {config.weights} is another way to round them")


def _moved_weights(config: RunConfig) -> str | None:
    """Return the reason why the model's own weights train or move; ``None`` if they stay as they are."""
    if config.adapter.peft in ("full", "norm", "bias"):
        return f"adapter.peft {config.adapter.peft} trains the model's own; use bottleneck, lora or prompt"
    if type(ALGORITHMS[config.method]).shift is not Algorithm.shift:
        return f"{config.method} adds to the model's own; use fp32"
    return None


def settings_hash(config: RunConfig) -> str:
    """Return a hash of the settings that clients and server must share, as long as one that nobody can make twice."""
    return hashlib.sha256(json.dumps(_common(config), sort_keys=True).encode()).hexdigest()


def _common(config: RunConfig) -> dict[str, Any]:
    """Return the settings that clients and server must share: all but each side's model, data and threads."""
    # Each client may restrict its pictures and its shared metrics, and keep its seed to itself.
    places = {key for key in CLIENTS_OWN if "." not in key} | {"model", "pictures", "share_metrics", "rounds"}
    exclude: dict[str, Any] = dict.fromkeys(places, True)
    exclude |= {"train": {"precision"}, "adapter": {"start", "start_local"}}
    exclude["privacy"] = {"secret_seeds", "guarded_steps"}
    return config.model_dump(mode="json", exclude=exclude)


@lru_cache(maxsize=1)
def _load_model(
    model: str,
    weights: Format,
    adapter: AdapterConfig,
    fusion: FusionConfig,
    checkpointing: bool,
    device: str,
    products: Resolved,
) -> tuple[Backbone, Adapters, str]:
    """Return the model on its device, its adapters, and the hash of its original weights.

    Its frozen layers are ready for products in the format ``products``.
    """
    from feddat.models.catalog import load_backbone

    backbone = load_backbone(model, weights, device)
    hashed = original_hash(backbone)
    if isinstance(backbone, FusedBackbone):
        backbone.fuse(fusion.kind, fusion.side)
    elif fusion != FusionConfig():
        raise ConfigError(f"fusion: model {model} has one stream; expected the default")
    backbone.model.to(device)
    try:
        adapters = build_adapters(backbone.model, **adapter.form())
    except ValueError as error:
        raise ConfigError(f"adapter: {error}") from None
    if checkpointing:
        from feddat.adapters.checkpointing import checkpoint_layers

        checkpoint_layers(adapters)
    prepare_frozen(adapters, products)
    return backbone, adapters, hashed


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
