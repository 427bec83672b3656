"""Everything that is loaded for one run: data, frozen model, adapters, and a participant for every client.

The server of a run needs its foundation alone: it has nobody's data.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from feddat.adapters.base import Adapters
from feddat.adapters.frozen import prepare_frozen
from feddat.adapters.int8_products import cannot_multiply
from feddat.adapters.methods import build_adapters, count_parameters
from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.algorithms.base import MAIN_HEAD
from feddat.app.checkpoint import ServerState
from feddat.app.client import Site
from feddat.app.messages import Member
from feddat.app.secure_strategy import sum_rules, uses_sums
from feddat.client.captured import CapturedRoutes
from feddat.client.client_level import NoiseShares
from feddat.client.data_notes import SplitNotes, examine
from feddat.client.prefixes import PrefixCache
from feddat.client.private_rules import check_privacy, check_server_part
from feddat.client.probe import unreached_sites
from feddat.client.recent import Recent
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.client.trainer import Participant, evaluated_routes
from feddat.config import AdapterConfig, ConfigError, FusionConfig, RunConfig
from feddat.data.partition import split_clients
from feddat.example import ClientData, DataError
from feddat.experiment.serving.app_config import CLIENTS_OWN
from feddat.experiment.single.starting import check_starts, client_starts
from feddat.kinds import CHOOSING
from feddat.models.base import Backbone, StagedBackbone
from feddat.models.number_formats import Format
from feddat.models.two_towers.fusion import FusedBackbone
from feddat.models.weights import some, weights_hash
from feddat.phases import phase
from feddat.precision import Resolved, resolve_precision
from feddat.privacy.secure_sum.identity import Identity
from feddat.seeding import numpy_generator, torch_generator

log = logging.getLogger(__name__)

#: Name of the one participant of a centralised method.
CENTRAL = "central"


@dataclass(frozen=True)
class Foundation:
    """What every client of a run and its server have in common.

    Attributes:
        config: the run, with an algorithm's name as method.
        backbone: the frozen model.
        adapters: over the frozen model, shared by all participants of the process.
        algorithm: the local objective.
        model: what must be the same everywhere -> its hash: ``weights`` (frozen), ``encoder`` (tokenizer, processing of
            images, the model's configuration), ``adapter`` (its sites and shapes) and ``settings`` of the run.
    """

    config: RunConfig
    backbone: Backbone
    adapters: Adapters
    algorithm: Algorithm
    model: dict[str, str]

    def initial_shared(self) -> dict[str, Tensor]:
        """Return what travels in the first round, drawn from the seed alone; empty where nothing is communicated."""
        if not self.algorithm.communicates:
            return {}
        return {key: value for key, value in self.initial_global().items() if self.algorithm.shares(key)}

    def initial_global(self) -> dict[str, Tensor]:
        """Return the global adapter as the seed alone draws it."""
        self.adapters.initialise(torch_generator(self.config.seed, "server", "adapter"), "global")
        return self.adapters.state("global")

    def shared_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of what travels, extra arrays not counted; empty where nothing is communicated."""
        if not self.algorithm.communicates:
            return {}
        named = self.adapters.named("global").items()
        return {key: tuple(value.shape) for key, value in named if self.algorithm.shares(key)}

    def routes(self, final: bool) -> tuple[str, ...]:
        """Return the routes that are scored, the method's own answer first."""
        return evaluated_routes(self.algorithm, self.config.algorithm, final)

    def route_name(self, route: str) -> str:
        """Return what metrics call a route: methods with one route have a ``score``."""
        return route if len(self.algorithm.routes) > 1 else "score"

    def count(self, heads: nn.Module | None = None) -> dict[str, int]:
        """Return the parameters of one client with these heads: ``total``, ``trainable``, ``communicated``."""
        algorithm = self.algorithm
        return count_parameters(
            self.adapters,
            trains=algorithm.trains,
            trains_key=algorithm.trains_key,
            shares=algorithm.shares if algorithm.communicates else None,
            head=heads,
        )


def answering_state(
    foundation: Foundation, state: ServerState, participant: str | None = None
) -> tuple[bool, dict[str, Tensor] | None]:
    """Return whether a state is that of the last round, and the extra arrays that a participant's answers take.

    ``participant``: its name; ``None``: nobody's, what is the same for all.
    """
    server = foundation.algorithm.server
    extras = None
    if server is not None:
        apart = server.apart and participant is not None
        extras = dict(server.answers_to(state.rule, participant or "") if apart else server.answers(state.rule))
    return state.round == foundation.config.rounds, extras


@dataclass(frozen=True)
class Federation:
    """One run's clients over one frozen model.

    Attributes:
        foundation: what they have in common.
        data: client name -> its data, in the benchmark's order.
        participants: by name, sorted; one per client, or ``central`` alone.
    """

    foundation: Foundation
    data: dict[str, ClientData]
    participants: dict[str, Participant]
    _members: dict[str, Member] = field(default_factory=dict)

    def owner(self, client: str) -> Participant:
        """Return the participant that works on a client's data."""
        return next(p for p in self.participants.values() if client in p.members)

    def site(self, name: str, identity: Identity | None = None) -> Site:
        """Return a participant as its node presents it; ``identity``: its certificate, where it has one."""
        if name not in self._members:
            self._members[name] = self._member(name)
        works, config = self.participants[name], self.foundation.config
        sums = None
        if uses_sums(config, self.foundation.algorithm):
            noise = NoiseShares(config, works.store) if config.privacy.of_clients else None
            sums = SecureMember(works.store, sum_rules(config), identity, noise)
        return Site(self._members[name], works, self.foundation.model, sums)

    @cached_property
    def notes(self) -> dict[str, dict[str, SplitNotes]]:
        """Client -> split -> what of its data cannot count, for those of which there is something to say.

        It is the clients' own: nothing of it is in a message.
        """
        encoder = self.foundation.backbone.encoder
        found = {name: examine(self.owner(name).members[name], encoder) for name in self.data}
        return {name: notes for name, notes in found.items() if notes}

    def _member(self, name: str) -> Member:
        """Return what the server is told, with the parameters of the largest heads: they differ in their answers."""
        participant = self.participants[name]
        largest = nn.ModuleList()
        for member in participant.members.values():
            heads = nn.ModuleList(member.heads.values())
            largest = max(largest, heads, key=lambda found: sum(p.numel() for p in found.parameters()))
        count = self.foundation.count(largest)
        participant.release()  # one client's heads at a time: of a thousand clients they would not fit
        examples = sum(len(self.data[member].split("train")) for member in participant.members)
        return Member(name, tuple(participant.members), count, self.foundation.config.share_metrics, examples)


@phase("loading")
def load_foundation(config: RunConfig) -> Foundation:
    """Load what a run's server needs, and every client of it.

    The model is kept for the next run of this process, which sets all adapters anew: work with one run of a process at
    a time.

    Raises:
        ConfigError: adapter or device cannot be used.
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
        str(_device(config.device)),
        products="fp32" if _moved_weights(config) else resolve_precision(config.train.precision, config.device),
    )
    if checks_weights(config) and config.model_weights not in (None, weights):
        raise ConfigError(
            f"model_weights: {config.model_weights} expected, but model {config.model} has {weights}: these are other "
            "weights than the run began with, or the consortium agreed on"
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


def load_federation(config: RunConfig, clients_folder: Path, seal_key: Path | None = None) -> Federation:
    """Load what a run needs; nothing is written.

    The benchmark is kept for the next run of this process, as is the model (:func:`load_foundation`).

    Args:
        config: with an algorithm's name as method.
        clients_folder: where the clients' personal states lie.
        seal_key: file of the key that seals them, of one client alone; default: each has its own beside its states.

    Raises:
        ConfigError: adapter or device cannot be used.
        BenchmarkError: the benchmark is unknown.
        ModelError: the model cannot be used.
        DataError: data cannot be read, or a split is empty.
        StoreError: a client's name cannot be a folder name.
    """
    return build_federation(config, load_clients(config), clients_folder, seal_key)


@phase("loading")
def build_federation(
    config: RunConfig, clients: Sequence[ClientData], clients_folder: Path, seal_key: Path | None = None
) -> Federation:
    """Load the model, and put a federation of the given clients together, see :func:`load_federation`."""
    data = {client.name: client for client in clients}
    for client in data.values():
        for split in ("train", config.eval.split):
            if not client.split(split):
                raise DataError(f"client {client.name}: split {split} is empty")
    foundation = load_foundation(config)
    backbone, adapters, algorithm = foundation.backbone, foundation.adapters, foundation.algorithm
    groups = {CENTRAL: list(data.values())} if algorithm.centralised else {n: [c] for n, c in sorted(data.items())}
    stores = {name: PersonalStore(clients_folder, name, key=seal_key) for name in groups}
    prefixes = PrefixCache(config.cache_prefix * 2**20) if config.cache_prefix else None
    recent = Recent(config.keep_clients, len(groups))
    captured = _captured(config, backbone, adapters)
    # Who has trained goes on from that, whatever has become of the folder since.
    begun = all(store.rounds() for store in stores.values())
    starts = {} if begun else client_starts(config, algorithm, adapters, foundation.model["weights"])
    participants = {
        name: Participant(
            name, members, config, backbone, adapters, algorithm, stores[name], prefixes, recent, captured, starts
        )
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
    return Federation(foundation, data, participants)


@phase("loading")
def check_sites(federation: Federation, others: bool = False) -> None:
    """See to it that adapters train wherever they are; of default sites, say where they do not.

    Args:
        federation: whose clients are looked at.
        others: whether there are clients elsewhere: what rests here may train there, so only all of it is too much.

    Raises:
        ConfigError: ``adapter.sites`` match modules that no gradient gets to.
    """
    foundation, config = federation.foundation, federation.foundation.config
    if not foundation.algorithm.trains or config.adapter.peft not in CHOOSING:
        return
    members = [member for participant in federation.participants.values() for member in participant.members.values()]
    beside = unreached_sites(foundation.backbone, foundation.adapters, members, config.train.precision)
    if not beside:
        return
    reason = "what these clients answer does not depend on what comes out there, so nothing trains"
    if config.adapter.sites is not None and not (others and len(beside) < len(foundation.adapters.sites)):
        raise ConfigError(f"adapter.sites: no gradient gets to {some(beside, 'module')}: {reason}; leave them out")
    log.warning(
        "model %s: no gradient gets to the adapters of %s: %s, though it travels; adapter.sites can choose others",
        config.model,
        some(beside, "module"),
        reason,
    )


def _captured(config: RunConfig, backbone: Backbone, adapters: Adapters) -> CapturedRoutes | None:
    """Return what records passes, where they are run on a GPU and can be recorded."""
    on_gpu = _device(config.device).type == "cuda"
    if not (on_gpu and config.runtime.cuda_graphs and isinstance(backbone, StagedBackbone)):
        return None
    # Checkpoints are computed again in the backward pass, each from a state of the generator that a graph cannot read.
    return None if config.train.checkpointing else CapturedRoutes(backbone, adapters, config.train.precision)


def _check(algorithm: Algorithm, config: RunConfig) -> None:
    """Raise ``ConfigError`` if the algorithm cannot do its part with these heads."""
    if config.fusion.side == "personal" and config.fusion.kind == "transformer" and config.head.lr == 0:
        raise ConfigError("head.lr: 0, but a personal fusion trains at the head's rate")
    if algorithm.trains_head_alone and config.head.lr == 0:
        raise ConfigError(f"head.lr: 0, but {algorithm.name} has steps in which nothing but the head trains")


def _check_format(config: RunConfig) -> None:
    """Raise ``ConfigError`` if weights would have to train or move in a format in which they cannot."""
    if config.weights != "fp32" and (reason := _moved_weights(config)):
        raise ConfigError(f"weights: {config.weights}, but {reason}")
    if config.train.precision == "int8":
        if reason := _moved_weights(config) or cannot_multiply(config.device):
            raise ConfigError(f"train.precision: int8, but {reason}")
        if config.weights in ("int8", "int4"):
            raise ConfigError(f"train.precision: int8, but weights: {config.weights} is another way to round them")


def _moved_weights(config: RunConfig) -> str | None:
    """Say what makes the model's own weights train or move; ``None`` where they stay as they are."""
    if config.adapter.peft in ("full", "norm", "bias"):
        return f"adapter.peft {config.adapter.peft} trains the model's own; use bottleneck, lora or prompt"
    if type(ALGORITHMS[config.method]).shift is not Algorithm.shift:
        return f"{config.method} adds to the model's own; use fp32"
    return None


def _common(config: RunConfig) -> dict[str, Any]:
    """Return the settings that clients and server must share: all but where each has its model, data and threads."""
    # Pictures and what is shared are for each client to narrow.
    places = {key for key in CLIENTS_OWN if "." not in key} | {"model", "pictures", "share_metrics", "rounds"}
    exclude: dict[str, Any] = dict.fromkeys(places, True)
    exclude |= {"train": {"precision"}, "adapter": {"start", "start_local"}}
    return config.model_dump(mode="json", exclude=exclude)


def checks_weights(config: RunConfig) -> bool:
    """Return whether the hash of a run's weights is the same on every machine: rounded ones depend on the device."""
    return config.weights == "fp32"


def model_hashes(model: str) -> dict[str, str]:
    """Return the hashes of a model's weights and encoder, as in :attr:`Foundation.model`, with default settings.

    Raises:
        ModelError: the model cannot be used.
    """
    from feddat.models.catalog import load_backbone

    backbone = load_backbone(model)
    return {"weights": weights_hash(backbone.model.state_dict()), "encoder": backbone.encoder.fingerprint[:16]}


def participant_names(config: RunConfig) -> list[str]:
    """Return the names of a run's participants, sorted, as far as they are known without anybody's data.

    Raises:
        BenchmarkError: the benchmark is unknown.
        DataError: a benchmark's data cannot be read.
    """
    if ALGORITHMS[config.method].centralised:
        return [CENTRAL]
    if config.clients is not None and config.split_clients == 1:
        return sorted(config.clients)
    return sorted(client.name for client in load_clients(config))


@phase("loading")
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

        clients = tuple(read_client(name, spec, config.pictures) for name, spec in config.clients.items())
    else:
        found = _load_benchmark(
            str(config.benchmark),
            config.data_seed,
            config.train_examples,
            config.test_examples,
            config.root,
            config.validation_examples,
            config.pictures.outside,
            tuple(sorted((config.revisions or {}).items())),
        )
        clients = tuple(replace(client, pictures=config.pictures) for client in found)
    return tuple(_kept(_capped(client, config), config) for client in clients)


def _kept(data: ClientData, config: RunConfig) -> ClientData:
    """Give a client a place below ``data_cache``, if it has none of its own."""
    if config.data_cache is None or data.encodings is not None:
        return data
    return replace(data, encodings=config.data_cache / data.name)


def _capped(data: ClientData, config: RunConfig) -> ClientData:
    """Draw at most ``train_examples``, ``validation_examples`` and ``test_examples``; the answers stay those of all."""
    caps = {
        "train": config.train_examples,
        "validation": config.validation_examples or config.test_examples,
        "test": config.test_examples,
    }
    kept: dict[str, Any] = {}
    for split, cap in caps.items():
        examples = data.split(split)
        if cap is not None and cap < len(examples):
            order = numpy_generator(config.data_seed, "cap", data.name, split).permutation(len(examples))[:cap]
            kept[split] = tuple(examples[index] for index in sorted(order))
    return replace(data, **kept)


@lru_cache(maxsize=1)
def _load_benchmark(
    name: str,
    seed: int,
    train: int | None,
    test: int | None,
    root: Path | None,
    validation: int | None,
    outside: bool,
    revisions: tuple[tuple[str, str], ...],
) -> tuple[ClientData, ...]:
    from feddat.benchmarks import load_benchmark

    return load_benchmark(name, seed, train, test, root, validation, outside, dict(revisions)).clients


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
    """Return the model on its device, with adapters on it, its frozen layers ready for products in a format, and the
    hash of its weights as they were."""
    from feddat.models.catalog import load_backbone

    backbone = load_backbone(model, weights, device)
    hashed = weights_hash(backbone.model.state_dict())
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


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
