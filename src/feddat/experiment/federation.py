"""Everything that is loaded for one run: data, frozen model, adapters, and a participant for every client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.adapters.methods import build_adapters
from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.algorithms.base import MAIN_HEAD
from feddat.client.personal import shared_state
from feddat.client.prefixes import PrefixCache
from feddat.client.recent import Recent
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.config import AdapterConfig, ConfigError, FusionConfig, RunConfig
from feddat.data.partition import split_clients
from feddat.example import ClientData, DataError
from feddat.models.base import Backbone
from feddat.models.fusion import FusedBackbone
from feddat.models.number_formats import Format
from feddat.seeding import numpy_generator, torch_generator

#: Name of the one participant of a centralised method.
CENTRAL = "central"


@dataclass(frozen=True)
class Federation:
    """One run's clients over one frozen model.

    Attributes:
        seed: of the run.
        data: client name -> its data, in the benchmark's order.
        adapters: over the frozen model, shared by all participants of the process.
        algorithm: the local objective.
        participants: by name, sorted; one per client, or ``central`` alone.
    """

    seed: int
    data: dict[str, ClientData]
    adapters: Adapters
    algorithm: Algorithm
    participants: dict[str, Participant]

    def initial_shared(self) -> dict[str, Tensor]:
        """Return what travels in the first round, drawn from the seed alone; empty where nothing is communicated."""
        if not self.algorithm.communicates:
            return {}
        self.adapters.initialise(torch_generator(self.seed, "server", "adapter"), "global")
        return shared_state(self.algorithm, self.adapters)

    def owner(self, client: str) -> Participant:
        """Return the participant that works on a client's data."""
        return next(p for p in self.participants.values() if client in p.members)

    def routes(self, final: bool) -> tuple[str, ...]:
        """Return the routes that are scored, the method's own answer first."""
        return next(iter(self.participants.values())).routes(final)

    def route_name(self, route: str) -> str:
        """Return what metrics call a route: methods with one route have a ``score``."""
        return route if len(self.algorithm.routes) > 1 else "score"


def load_federation(config: RunConfig, clients_folder: Path) -> Federation:
    """Load what a run needs; nothing is written.

    The model and the benchmark are kept for the next run of this process, which sets all adapters anew: work with one
    federation of a process at a time.

    Args:
        config: with an algorithm's name as method.
        clients_folder: where the clients' personal states lie.

    Raises:
        ConfigError: adapter or device cannot be used.
        BenchmarkError: the benchmark is unknown.
        ModelError: the model cannot be used.
        DataError: data cannot be read, or a split is empty.
        StoreError: a client's name cannot be a folder name.
    """
    return build_federation(config, load_clients(config), clients_folder)


def build_federation(config: RunConfig, clients: Sequence[ClientData], clients_folder: Path) -> Federation:
    """Load the model, and put a federation of the given clients together, see :func:`load_federation`."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data = {client.name: client for client in clients}
    for client in data.values():
        for split in ("train", config.eval.split):
            if not client.split(split):
                raise DataError(f"client {client.name}: split {split} is empty")
    _check_format(config)
    backbone, adapters = _load_model(
        config.model,
        config.weights,
        config.adapter,
        config.fusion,
        config.train.checkpointing,
        str(_device(config.device)),
    )
    algorithm = ALGORITHMS[config.method].for_run(config, list(adapters.named("global")))
    _check(algorithm, config)
    groups = {CENTRAL: list(data.values())} if algorithm.centralised else {n: [c] for n, c in sorted(data.items())}
    stores = {name: PersonalStore(clients_folder, name) for name in groups}
    prefixes = PrefixCache(config.cache_prefix * 2**20) if config.cache_prefix else None
    recent = Recent(config.keep_clients)
    participants = {
        name: Participant(name, members, config, backbone, adapters, algorithm, stores[name], prefixes, recent)
        for name, members in groups.items()
    }
    for member in (member for participant in participants.values() for member in participant.members.values()):
        if algorithm.trains_head_alone and not list(member.heads[MAIN_HEAD].parameters()):
            raise ConfigError(
                f"method: {algorithm.name} has steps in which nothing but the head trains, but the vocabulary head of "
                f"model {config.model} does not"
            )
    written = any(member.generation for p in participants.values() for member in p.members.values())
    if algorithm.reads_features and written:
        raise ConfigError(
            f"method: {algorithm.name} compares pooled features, but on model {config.model} answers are written"
        )
    if config.momentum.alpha > 0 and not written:
        raise ConfigError(
            f"momentum.alpha: {config.momentum.alpha}, but on model {config.model} no client writes its answers"
        )
    return Federation(config.seed, data, adapters, algorithm, participants)


def _check(algorithm: Algorithm, config: RunConfig) -> None:
    """Raise ``ConfigError`` if the algorithm cannot do its part with these heads."""
    if config.fusion.side == "personal" and config.fusion.kind == "transformer" and config.head.lr == 0:
        raise ConfigError("head.lr: 0, but a personal fusion trains at the head's rate")
    if algorithm.trains_head_alone and config.head.lr == 0:
        raise ConfigError(f"head.lr: 0, but {algorithm.name} has steps in which nothing but the head trains")


def _check_format(config: RunConfig) -> None:
    """Raise ``ConfigError`` if weights would have to train or move in a format in which they cannot."""
    if config.weights == "fp32":
        return
    if config.adapter.peft in ("full", "norm", "bias"):
        raise ConfigError(
            f"weights: {config.weights}, but adapter.peft {config.adapter.peft} trains the model's own; use "
            "bottleneck, lora or prompt"
        )
    if type(ALGORITHMS[config.method]).shift is not Algorithm.shift:
        raise ConfigError(f"weights: {config.weights}, but {config.method} adds to the model's own; use fp32")


def load_clients(config: RunConfig) -> tuple[ClientData, ...]:
    """Return the clients' data: of the benchmark, or their own; each dealt out to ``split_clients``.

    Raises:
        BenchmarkError: the benchmark is unknown.
        DataError: own data cannot be read, or is too little to be dealt out.
    """
    return split_clients(_whole_clients(config), config.split_clients, config.data_seed)


def _whole_clients(config: RunConfig) -> tuple[ClientData, ...]:
    if config.clients is not None:
        from feddat.data.readers import read_client

        clients = tuple(read_client(name, spec) for name, spec in config.clients.items())
    else:
        clients = _load_benchmark(
            str(config.benchmark), config.data_seed, config.train_examples, config.test_examples, config.root
        )
    return tuple(_kept(_capped(client, config), config) for client in clients)


def _kept(data: ClientData, config: RunConfig) -> ClientData:
    """Give a client a place below ``data_cache``, if it has none of its own."""
    if config.data_cache is None or data.encodings is not None:
        return data
    return replace(data, encodings=config.data_cache / data.name)


def _capped(data: ClientData, config: RunConfig) -> ClientData:
    """Draw at most ``train_examples`` and ``test_examples`` of each split; the answers stay those of all of train."""
    caps = {"train": config.train_examples, "validation": config.test_examples, "test": config.test_examples}
    kept: dict[str, Any] = {}
    for split, cap in caps.items():
        examples = data.split(split)
        if cap is not None and cap < len(examples):
            order = numpy_generator(config.data_seed, "cap", data.name, split).permutation(len(examples))[:cap]
            kept[split] = tuple(examples[index] for index in sorted(order))
    return replace(data, **kept)


@lru_cache(maxsize=1)
def _load_benchmark(
    name: str, seed: int, train: int | None, test: int | None, root: Path | None
) -> tuple[ClientData, ...]:
    from feddat.benchmarks import load_benchmark

    return load_benchmark(name, seed, train, test, root).clients


@lru_cache(maxsize=1)
def _load_model(
    model: str, weights: Format, adapter: AdapterConfig, fusion: FusionConfig, checkpointing: bool, device: str
) -> tuple[Backbone, Adapters]:
    from feddat.models.catalog import load_backbone

    backbone = load_backbone(model, weights, device)
    if isinstance(backbone, FusedBackbone):
        backbone.fuse(fusion.kind, fusion.side)
    elif fusion != FusionConfig():
        raise ConfigError(f"fusion: model {model} has one stream; expected the default")
    backbone.model.to(device)
    try:
        adapters = build_adapters(backbone.model, **adapter.model_dump())
    except ValueError as error:
        raise ConfigError(f"adapter: {error}") from None
    if checkpointing:
        from feddat.adapters.checkpointing import checkpoint_layers

        checkpoint_layers(adapters)
    return backbone, adapters


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
