"""The clients of one run over one frozen model: their data, and a participant for each of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from feddat.adapters.base import Adapters
from feddat.algorithms import ALGORITHMS
from feddat.algorithms.base import MAIN_HEAD
from feddat.app.client import Site
from feddat.app.messages import Member
from feddat.app.secure_strategy import sum_rules, uses_sums
from feddat.client.captured import CapturedRoutes
from feddat.client.client_level import NoiseShares
from feddat.client.data_notes import SplitNotes, examine
from feddat.client.prefixes import PrefixCache
from feddat.client.private_rules import steps_are_guarded
from feddat.client.probe import unreached_sites
from feddat.client.recent import Recent
from feddat.client.store import PersonalStore
from feddat.client.summing import SecureMember
from feddat.client.trainer import Participant
from feddat.config import ConfigError, RunConfig
from feddat.devices import device_of
from feddat.example import ClientData, DataError
from feddat.experiment.single.client_data import chosen_clients, load_clients
from feddat.experiment.single.foundation import Foundation, load_foundation, settings_hash
from feddat.experiment.single.starting import client_starts
from feddat.kinds import CHOOSING
from feddat.models.base import Backbone, StagedBackbone
from feddat.models.weights import some
from feddat.phases import phase
from feddat.privacy.secure_sum.identity import Identity

log = logging.getLogger(__name__)
#: Name of the only participant of a centralised method.
CENTRAL = "central"


@dataclass(frozen=True)
class Federation:
    """The clients of one run over one frozen model.

    Attributes:
        foundation: the model, adapters and algorithm that they share.
        data: each client's data by name, in the benchmark's order.
        participants: by name, sorted; one per client, or only ``central``.
    """

    foundation: Foundation
    data: dict[str, ClientData]
    participants: dict[str, Participant]
    _members: dict[str, Member] = field(default_factory=dict)

    def owner(self, client: str) -> Participant:
        """Return the participant that works on a client's data."""
        return next(p for p in self.participants.values() if client in p.members)

    def site(self, name: str, identity: Identity | None = None) -> Site:
        """Return a participant as its node presents it; ``identity`` is its certificate, if it has one."""
        if name not in self._members:
            self._members[name] = self._member(name)
        works, config = self.participants[name], self.foundation.config
        sums = None
        if uses_sums(config, self.foundation.algorithm):
            noise = NoiseShares(config, works.store) if config.privacy.of_clients else None
            rules = sum_rules(config, settings_hash(config))
            sums = SecureMember(works.store, rules, identity, noise)
        return Site(self._members[name], works, self.foundation.model, sums, hides_losses=steps_are_guarded(config))

    @cached_property
    def notes(self) -> dict[str, dict[str, SplitNotes]]:
        """Data issues by client and split; clients and splits without issues are left out.

        These notes stay with the client: no message contains them.
        """
        encoder = self.foundation.backbone.encoder
        found = {name: examine(self.owner(name).members[name], encoder) for name in self.data}
        return {name: notes for name, notes in found.items() if notes}

    def _member(self, name: str) -> Member:
        """Return the description for the server; it counts parameters with the largest head, since heads differ."""
        participant = self.participants[name]
        largest = nn.ModuleList()
        for member in participant.members.values():
            heads = nn.ModuleList(member.heads.values())
            largest = max(largest, heads, key=lambda found: sum(p.numel() for p in found.parameters()))
        count = self.foundation.count(largest)
        participant.release()  # One client's heads at a time: those of a thousand clients would not fit.
        examples = sum(len(self.data[member].split("train")) for member in participant.members)
        return Member(name, tuple(participant.members), count, self.foundation.config.share_metrics, examples)


def load_federation(config: RunConfig, clients_folder: Path, seal_key: Path | None = None) -> Federation:
    """Load everything that a run needs; write nothing.

    Benchmark and model are kept for the next run of this process (:func:`.foundation.load_foundation`).

    Args:
        config: settings of the run, with an algorithm's name as method.
        clients_folder: folder of the clients' personal states.
        seal_key: file of the key that seals one client's states; default: each client has its own beside its states.

    Raises:
        ConfigError: the adapter or the device cannot be used.
        BenchmarkError: the benchmark is unknown.
        ModelError: the model cannot be used.
        DataError: data cannot be read, or a split is empty.
        StoreError: a client's name cannot be a folder name.
    """
    load_foundation(config)  # kept; a mistake in its settings should not wait until all data is read
    return build_federation(config, load_clients(config), clients_folder, lambda name: seal_key)


@phase("loading")
def build_federation(
    config: RunConfig,
    clients: Sequence[ClientData],
    clients_folder: Path,
    seal_key: Callable[[str], Path | None] = lambda name: None,
) -> Federation:
    """Load the model and build a federation of the given clients; see :func:`load_federation`.

    ``seal_key`` returns the file of the key that seals a client's states; ``None``: it is beside them.
    """
    data = {client.name: client for client in clients}
    for client in data.values():
        for split in ("train", config.eval.split):
            if not client.split(split):
                raise DataError(f"client {client.name}: split {split} is empty")
    foundation = load_foundation(config)
    backbone, adapters, algorithm = foundation.backbone, foundation.adapters, foundation.algorithm
    groups = {CENTRAL: list(data.values())} if algorithm.centralised else {n: [c] for n, c in sorted(data.items())}
    promise = config.privacy.promise
    stores = {name: PersonalStore(clients_folder, name, key=seal_key(name), promise=promise) for name in groups}
    prefixes = PrefixCache(config.cache_prefix * 2**20) if config.cache_prefix else None
    recent = Recent(config.keep_clients, len(groups))
    captured = _captured(config, backbone, adapters)
    # Clients that have trained continue from their states, whatever happened to the start folder since.
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
                f"method: {algorithm.name} has steps in which only the head trains, but the vocabulary head of "
                f"model {config.model} does not train"
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


def participant_names(config: RunConfig) -> list[str]:
    """Return the sorted names of a run's participants; reads data only if names depend on it.

    Raises:
        BenchmarkError: the benchmark is unknown.
        DataError: a benchmark's data cannot be read.
    """
    if ALGORITHMS[config.method].centralised:
        return [CENTRAL]
    if config.clients is not None and config.split_clients == 1:
        return sorted(chosen_clients(config, config.clients))
    return sorted(client.name for client in load_clients(config))


@phase("loading")
def check_sites(federation: Federation, others: bool = False) -> None:
    """Check that every adapter gets a gradient; for default sites, only warn about those that do not.

    Args:
        federation: its clients are checked.
        others: whether other machines have more clients. An adapter without a gradient here may train there, so then
            it is an error only if no adapter gets one.

    Raises:
        ConfigError: ``adapter.sites`` matches modules that no gradient reaches.
    """
    foundation, config = federation.foundation, federation.foundation.config
    if not foundation.algorithm.trains or config.adapter.peft not in CHOOSING:
        return
    members = [member for participant in federation.participants.values() for member in participant.members.values()]
    beside = unreached_sites(foundation.backbone, foundation.adapters, members, config.train.precision)
    if not beside:
        return
    reason = "these clients' answers do not depend on their output, so these adapters do not train"
    if config.adapter.sites is not None and not (others and len(beside) < len(foundation.adapters.sites)):
        raise ConfigError(f"adapter.sites: no gradient reaches {some(beside, 'module')}: {reason}; leave them out")
    log.warning(
        "model %s: no gradient reaches the adapters of %s: %s, though they travel; adapter.sites can choose others",
        config.model,
        some(beside, "module"),
        reason,
    )


def _captured(config: RunConfig, backbone: Backbone, adapters: Adapters) -> CapturedRoutes | None:
    """Return a recorder of CUDA graphs, if passes run on a GPU and can be recorded."""
    on_gpu = device_of(config.device).type == "cuda"
    if not (on_gpu and config.runtime.cuda_graphs and isinstance(backbone, StagedBackbone)):
        return None
    # Checkpointing recomputes layers in the backward pass from a generator state that a graph cannot read.
    return None if config.train.checkpointing else CapturedRoutes(backbone, adapters, config.train.precision)
