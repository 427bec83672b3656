"""Enforce the policy of a client with its own file on every message that its node receives.

The gate checks a message in this order and refuses it at the first failure: the run's id; the run's settings, which
are parsed without YAML aliases, held to bounds, and compared with those approved for this run; the instruction. Only
then are model and data loaded and their hashes compared. Finally, the gate checks what the instruction would produce,
and how many instructions were followed today.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

from flwr.app import Message, MessageType

from feddat.algorithms import ALGORITHMS
from feddat.app import policy, secure_messages
from feddat.app.client import OldStateError, Works
from feddat.app.messages import Instruction
from feddat.app.policy import PolicyError
from feddat.client.approvals import Approvals, InvalidApprovalError, changes
from feddat.client.budget import newest_ledger
from feddat.client.ledger import Ledger
from feddat.client.private_rules import check_privacy
from feddat.client.summing import opened_sums
from feddat.client.totals import TotalError, Totals
from feddat.client.trainer import Participant
from feddat.config import ConfigError, RunConfig
from feddat.experiment.serving.app_config import asked_settings, asked_values, check_complete
from feddat.experiment.single.methods import VARIANTS, resolve
from feddat.experiment.single.world import check_client
from feddat.precision import resolve_precision
from feddat.site import SiteConfig, read_site

log = logging.getLogger(__name__)

#: Clients whose data has already been compared with the data at the start of their state.
_COMPARED: WeakSet[Participant] = WeakSet()
#: How the client's administrator can approve a run.
_HOW = "approve it with `feddat deploy approve {}`"


def totals(site: SiteConfig) -> Totals:
    """Return the ledger of a client over all its runs."""
    return Totals(site.client, site.state, site.seals)


@dataclass(frozen=True)
class ClientGate:
    """The policy in a client's file, which is read again for each message.

    Attributes:
        file: file of the client.
        flat: the run's settings in Flower's form.
    """

    file: Path
    flat: Mapping[str, Any]

    def admit(self, message: Message) -> None:
        """Refuse a message before anything is loaded for it.

        Raises:
            PolicyError: the policy does not allow the message; the reason is for the client's own log.
            ConfigError, ApprovalError, OSError, ValueError: the client's own files cannot be used.
        """
        site = read_site(self.file)
        run = policy.check_run_id(message)
        settings = self.settings(site)
        kind = message.metadata.message_type
        if kind in map(secure_messages.message_type, secure_messages.STEPS):
            policy.check_step(settings, message)
        elif kind != MessageType.QUERY:
            policy.check_instruction(site.policy, settings, message)
        try:  # before the run is approved, pinned or counted
            totals(site).check(run, settings.privacy, site.policy)
        except TotalError as error:
            raise PolicyError(str(error)) from None
        self._approved(site, run)

    def allow(self, message: Message, ask: Instruction, works: Works) -> None:
        """Refuse an instruction because of what it would produce, or because the data was exchanged.

        Raises:
            PolicyError: the policy does not allow the instruction; the reason is for the client's own log.
            StoreError: the client's data has changed, and its file does not accept that; or what earlier runs have
                spent is not known.
            OldStateError: the client's privacy ledger, or its record of secure sums, is older than its copy, and its
                file refuses an old state.
        """
        site = read_site(self.file)
        own = site.policy
        policy.check_received(own, ask)
        assert isinstance(works, Participant)
        if message.metadata.message_type == MessageType.TRAIN:
            shared = ask.shared or {}
            policy.check_parameters(own, sum(tensor.numel() for tensor in (*shared.values(), *ask.extras.values())))
            for member in works.members.values():
                policy.check_training(own, works.config, len(member.data.train))
                policy.check_noise(own, works.config, len(member.data.train))
        else:
            for member in works.members.values():
                policy.check_scores(own, len(member.data.split(ask.split)))
        if site.old_state == "refuse":
            _check_newest(works, ask.run)
        if works not in _COMPARED:  # only now, since the check writes the hashes to disk
            check_client(works, site.accept_changes)
            _COMPARED.add(works)
        if message.metadata.message_type == MessageType.TRAIN:
            try:
                totals(site).grant(ask.run, works.config.privacy, own)
            except TotalError as error:
                raise PolicyError(str(error)) from None
        self._counted(site, message)

    def settings(self, site: SiteConfig) -> RunConfig:
        """Return the run's settings as this client runs it.

        Raises:
            PolicyError: the policy does not allow the settings, or they are not those of this version of the package.
        """
        try:
            asked = asked_settings(self.flat)
            check_complete(self.flat)
            if asked.method not in VARIANTS and asked.method not in site.policy.methods:
                asked_for = f"{asked.method!r}, expected one of {', '.join(site.policy.methods)}"
                # Refused before any method from another package is loaded.
                raise PolicyError(f"policy.methods: method is {asked_for}")
            settings = resolve(asked)
            policy.check_settings(site.policy, settings)
            check_privacy(settings)
            settings = site.applied(settings)
            check_privacy(settings)  # again, since the client's own file can add a start
        except ConfigError as error:
            raise PolicyError(str(error)) from None
        if ALGORITHMS[settings.method].centralised:
            raise PolicyError(f"method is {settings.method!r}, which pools the data of all clients")
        precision = resolve_precision(settings.train.precision, settings.device)
        return settings.model_copy(update={"train": settings.train.model_copy(update={"precision": precision})})

    def _approved(self, site: SiteConfig, run: str) -> None:
        """Check that the run is approved with its current settings."""
        approvals, asked = Approvals(site.state, site.seals), asked_values(asked_settings(self.flat))
        try:
            before = approvals.approved(run)
        except InvalidApprovalError as error:
            approvals.wait(run, asked)
            raise PolicyError(f"{error}; {_HOW.format(run)}") from None
        if before == asked:
            return
        if before is not None:
            approvals.wait(run, asked)
            changed = ", ".join(changes(before, asked))
            raise PolicyError(f"run {run}: settings differ from those approved ({changed}); {_HOW.format(run)}")
        if site.policy.approval == "first-use":
            if not Ledger(approvals.folder, site.seals).take("runs", site.policy.new_runs_a_day):
                raise PolicyError(f"policy.new_runs_a_day: {site.policy.new_runs_a_day} runs have already begun today")
            approvals.pin(run, asked)
            log.info("run %s: settings pinned at its first message (policy.approval: first-use)", run)
            return
        approvals.wait(run, asked)
        raise PolicyError(f"run {run}: not approved yet; {_HOW.format(run)}")

    def _counted(self, site: SiteConfig, message: Message) -> None:
        """Count an update or evaluation towards today's limit before it is made."""
        limits = {
            MessageType.TRAIN: ("updates", site.policy.updates_a_day),
            MessageType.EVALUATE: ("evaluations", site.policy.evaluations_a_day),
        }
        if (limit := limits.get(message.metadata.message_type)) is None:
            return
        what, most = limit
        if not Ledger(Approvals(site.state, site.seals).folder, site.seals).take(what, most):
            raise PolicyError(f"policy.{what}_a_day: {most} {what} were already made today")


def _check_newest(works: Participant, run: str) -> None:
    """Refuse to work where what the client must not forget is older than its copy.

    Raises:
        OldStateError: it is.
        StoreError: it cannot be read, or was altered.
    """
    older = {"privacy ledger": newest_ledger(works.store)[1], "record of secure sums": opened_sums(works.store, run)[1]}
    for what in [what for what, is_older in older.items() if is_older]:
        raise OldStateError(
            f"the {what} in {works.store.folder} is older than its copy beside the seal key: restored from an older "
            "backup? It does nothing until the right state is restored (old_state: refuse)"
        )
