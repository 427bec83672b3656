"""What a client keeps between turns: restored before each, stored after it (docs/method/feddat.md, "One round")."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from feddat.adapters.base import Adapters
from feddat.algorithms.base import Algorithm, RoundContext
from feddat.algorithms.local import Local
from feddat.algorithms.server import ServerPart
from feddat.client.member import Member
from feddat.client.momentum import MomentumCopy
from feddat.client.personal import averages, load_shared, pack, trained, unpack
from feddat.client.store import PersonalStore, State, StoreError
from feddat.config import RunConfig
from feddat.phases import phase
from feddat.seeding import torch_generator


class ClientState:
    """The personal state of one client, in memory and on disk.

    Args:
        name: the client's name.
        members: its members by name; their heads are part of the state.
        config: the settings of the run.
        algorithm: the local objective.
        adapters: the adapters of the model that all clients of the process share.
        store: the states of this client on disk.
        device: the model's device.
        seed: returns the seed of all that this client draws itself.
        starts: initial states of adapters by name; adapters without one are drawn at random.
    """

    def __init__(
        self,
        name: str,
        members: Mapping[str, Member],
        config: RunConfig,
        algorithm: Algorithm,
        adapters: Adapters,
        store: PersonalStore,
        device: torch.device,
        seed: Callable[[], int],
        starts: Mapping[str, Mapping[str, Tensor]],
    ) -> None:
        self.name = name
        self.config = config
        self.algorithm = algorithm
        self.adapters = adapters
        self.store = store
        self._members = members
        self._device = device
        self._seed = seed
        self._starts = starts
        self._personalised = store.beside("personal")
        self._averages: dict[str, Tensor] = {}  # averages of momentum distillation in the last restored state

    @phase("checkpoints")
    def restore(
        self, shared: dict[str, Tensor] | None, round: int, extras: Mapping[str, Tensor] | None, training: bool
    ) -> RoundContext:
        """Load this client's state before ``round`` and the received arrays into the shared model.

        Args:
            shared: the received entries of the global adapter.
            round: the round to train, or the round after the evaluated one.
            extras: the received extra arrays.
            training: whether the round is to be trained.

        Raises:
            ValueError: the global adapter or an extra array is missing or does not fit.
            StoreError: the stored state is gone, was altered or does not fit.
        """
        if self.algorithm.communicates and shared is None:
            raise ValueError(f"client {self.name}: {self.algorithm.name} needs the global adapter, but received none")
        # Entries that do not travel start the same everywhere; if nothing travels, that is all of them.
        self._begin("global", torch_generator(self.config.seed, "server", "adapter"))
        if shared is not None:
            load_shared(self.algorithm, self.adapters, shared)
        self.adapters.refresh_anchor()
        self._begin("local", torch_generator(self._seed(), self.name, "local"))
        context = RoundContext(round, self.config.rounds, self.config.algorithm)
        self._check_extras(extras or {}, shared or {}, training)
        context.received = {key: value.to(self._device) for key, value in (extras or {}).items()}
        self.adapters.shift(self.algorithm.shift(context))
        stored = self.store.load(round)
        self._averages = averages(stored[1]) if stored is not None else {}
        if stored is None:
            for member in self._members.values():
                member.reset_heads()
        else:
            own = self._load(self.algorithm, stored)
            context.state = {key: value.to(self._device) for key, value in own.items()}
            context.previous = stored[0]
        return context

    def save(self, round: int, context: RoundContext, kept: Mapping[str, Tensor]) -> None:
        """Store the state after ``round``.

        Args:
            round: the trained round.
            context: the context of that round.
            kept: the state of momentum distillation.

        Raises:
            StoreError: the state cannot be written.
        """
        state = pack(self.algorithm, self.adapters, self._members, context.state, kept)
        self.store.save(round, state, self._meta(context.previous))

    def momentum_copy(self) -> MomentumCopy:
        """Return the teacher of momentum distillation from the restored state.

        Raises:
            StoreError: the stored averages do not fit the model.
        """
        parameters = trained(self.algorithm, self.adapters, self._members)
        try:
            return MomentumCopy(parameters, self.config.momentum.decay, self._averages)
        except ValueError as error:
            raise StoreError(f"client {self.name}: personal state does not fit: {error}") from None

    def load_personalised(self, round: int) -> bool:
        """Load the adapter and heads that were fine-tuned after ``round``; return whether they were stored."""
        state = self._personalised.read(round)
        if state is not None:
            self._load(Local(), state)
        return state is not None

    def save_personalised(self, round: int) -> None:
        """Store the adapter and heads that were fine-tuned after ``round``."""
        with self._personalised.held():
            self._personalised.save(round, pack(Local(), self.adapters, self._members, {}), self._meta(None))

    def _begin(self, adapter: str, generator: torch.Generator) -> None:
        """Set an adapter to its initial state."""
        if adapter in self._starts:
            self.adapters.load(adapter, self._starts[adapter])
        else:
            self.adapters.initialise(generator, adapter)

    def _check_extras(self, extras: Mapping[str, Tensor], shared: Mapping[str, Tensor], training: bool) -> None:
        """Raise ``ValueError`` unless the extra arrays match what the algorithm's server sends."""
        server = self.algorithm.server or ServerPart()
        sent = (server.sends if training else server.answers)(server.start(shared))
        expected = {key: value.shape for key, value in sent.items()}
        found = {key: value.shape for key, value in extras.items()}
        for key in sorted(found.keys() | expected.keys()):
            if found.get(key) != expected.get(key):
                raise ValueError(
                    f"client {self.name}: extra array {key}: got {_shape(found.get(key))}, "
                    f"{self.algorithm.name} expects {_shape(expected.get(key))}"
                )

    def _load(self, algorithm: Algorithm, state: State) -> dict[str, Tensor]:
        round, tensors, meta = state
        if meta.get("algorithm") != self.algorithm.name or meta.get("classes") != self._classes():
            raise StoreError(
                f"client {self.name}: personal state of round {round} in {self.store.folder} belongs to another "
                "method, task or answer list; start a new run"
            )
        try:
            return unpack(algorithm, self.adapters, self._members, tensors)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise StoreError(f"client {self.name}: personal state of round {round} does not fit: {reason}") from error

    def _meta(self, previous: int | None) -> dict[str, object]:
        return {"algorithm": self.algorithm.name, "classes": self._classes(), "previous": previous}

    def _classes(self) -> dict[str, str]:
        return {name: member.digest() for name, member in self._members.items()}


def _shape(shape: torch.Size | None) -> str:
    return "nothing" if shape is None else f"shape {tuple(shape)}"
