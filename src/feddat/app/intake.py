"""Take in the replies to the server's messages, in the order of client names, and count those that cannot be used.

A reply is passed on as soon as all earlier clients have answered, so the result is the same to the last bit whichever
client answers first. A faulty reply costs only that reply; too few valid ones end the round.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message

from feddat.app import messages
from feddat.app.messages import Member, ReplyError
from feddat.app.roster import FederationError, Roster

log = logging.getLogger(__name__)

#: After so many rounds in a row in which it was late, a client is left alone.
_LATE_TURNS = 2


@dataclass
class Intake:
    """The replies of one run: which are expected, and what became of those that could not be used.

    Attributes:
        roster: which node is which client.
        deadline: seconds that a client has for its answer; ``None``: no limit.
        notify: receives plain event dictionaries.
        failed: number of errors that clients have reported.
        refused: number of replies that the server has refused.
        asked: nodes that the last messages went to, in the order of client names.
        late: nodes that have not answered in time in this round.
        gone: nodes that disconnected while they trained in this round.

    A client that was late in two rounds in a row could cost the deadline in every round. So it is left alone for a
    round, and until it has answered the question who it is. If it is then late again, it is left alone for two rounds,
    then for four, and so on: one that answers only this question costs little time, too.
    """

    roster: Roster
    deadline: float | None = None
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    failed: int = 0
    refused: int = 0
    asked: Sequence[int] = ()
    late: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    _asked: set[str] = field(default_factory=set)
    _missed: set[str] = field(default_factory=set)
    _in_a_row: dict[str, int] = field(default_factory=dict)
    _rests: dict[str, int] = field(default_factory=dict)

    def begin_round(self) -> None:
        """Forget which nodes were late or gone in the last round."""
        self.late, self.gone = set(), set()

    def rest(self, round: int) -> None:
        """Before a round, decide who is not asked in it because it was late or gone in the last rounds."""
        for name in sorted(self._asked):
            if name not in self._missed:
                self._in_a_row.pop(name, None)
                continue
            turns = self._in_a_row[name] = self._in_a_row.get(name, 0) + 1
            if turns < _LATE_TURNS:
                continue
            rounds = 2 ** (turns - _LATE_TURNS)
            self._rests[name] = round + rounds
            self.roster.silent.add(name)
            log.warning(
                "client %s has not answered in time in %d rounds in a row; it is not asked again for %d, and until it "
                "says who it is",
                name,
                turns,
                rounds,
            )
        self._asked, self._missed = set(), set()

    def rests(self, name: str, round: int) -> bool:
        """Return whether a client is not to be asked in a round."""
        return name in self.roster.silent or round < self._rests.get(name, 0)

    def recall(self, names: Iterable[str]) -> None:
        """Ask clients again although they were late."""
        for name in names:
            self.roster.silent.discard(name)
            self._rests.pop(name, None)

    def take(
        self,
        round: int,
        kind: str,
        replies: Iterable[Message],
        fold: Callable[[Member, Message], None],
        outliers: Callable[[], dict[int, ReplyError]] = dict,
    ) -> set[int]:
        """Fold every valid reply, log and count the others and the late clients, and stop if too few are valid.

        Args:
            round, kind: round and kind of the messages.
            replies: the replies to them.
            fold: takes one reply, or raises.
            outliers: called after the last reply; returns index -> reason of the folded replies not to use.

        Returns:
            The indices of the replies not to use.

        Raises:
            FederationError: no reply is valid, or too few of a training.
        """
        first: ReplyError | None = None
        used = 0
        late = {self.roster.members[node].name: node for node in self.asked}
        self._asked |= late.keys()
        for member, reply in self._in_order(replies):
            del late[member.name]
            try:
                fold(member, reply)
                used += 1
            except ReplyError as error:
                first = first or error
                self._leave_out(round, kind, error)
                if messages.is_of_gone_node(reply):
                    self.gone.add(reply.metadata.src_node_id)
                    self._missed.add(member.name)
            del reply  # otherwise it stays in memory while waiting for the next one
        refused = outliers()
        used -= len(refused)
        for outlier in refused.values():
            first = first or outlier
            self._leave_out(round, kind, outlier)
        self.late |= set(late.values())
        self._missed |= late.keys()
        for name in late:
            within = "" if self.deadline is None else f" within {self.deadline:.0f} s"
            reason = f"has not answered{within}; a later reply is ignored"
            missing = ReplyError(name, reason, failed=True)
            first = first or missing
            self._leave_out(round, kind, missing)
        if not used:
            raise FederationError(f"round {round}, {kind}: no client could do its part; first: {first or 'no reply'}")
        if kind == "train" and used < self.roster.least:
            raise FederationError(
                f"round {round}, {kind}: {used} of at least {self.roster.least} clients could do their part; first "
                f"that could not: {first}; all results so far are kept, and the run can be resumed"
            )
        return set(refused)

    def _leave_out(self, round: int, kind: str, error: ReplyError) -> None:
        """Log and count a reply that is not used."""
        word = "failed" if error.failed else "refused"
        self.failed += error.failed
        self.refused += not error.failed
        log.warning("round %d, %s: client %s %s: %s", round, kind, error.client, word, error.reason)
        self.notify({"event": word, "round": round, "kind": kind, "client": error.client, "reason": error.reason})

    def _in_order(self, replies: Iterable[Message]) -> Iterator[tuple[Member, Message]]:
        """Yield replies in the order of client names, each as soon as all earlier ones have been yielded."""
        waiting = list(self.asked)
        early: dict[int, Message] = {}
        for reply in replies:
            early[reply.metadata.src_node_id] = reply
            del reply
            while waiting and waiting[0] in early:
                node = waiting.pop(0)
                yield self.roster.members[node], early.pop(node)
        for node in waiting:
            if node in early:
                yield self.roster.members[node], early[node]
