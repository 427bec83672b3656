"""Which node is which client. The server asks every node once, and every new node when it appears. No round waits long
for an answer as long as enough clients are there; an answer that comes later counts in the next round.

Node ids change (a restarted SuperNode can get another one); client names stay. In one process, all nodes are connected
from the start, and nothing here takes time. A name is bound to a key: the SuperLink knows every node's key and the name
under which its administrator admitted it. A node must claim exactly that name. The administrator can admit clients,
replace their keys and remove them during a run; the roster checks this before each round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from feddat.app import messages
from feddat.app.messages import Member, ReplyError
from feddat.app.polling import PollingGrid
from feddat.one_line import one_line

log = logging.getLogger(__name__)

#: Seconds that a node has to identify itself while clients are missing: it may have to load its model and data first.
ANSWER_SECONDS = 300.0
#: Seconds to wait for answers once enough clients are there. A later answer counts in the next round.
LATE_SECONDS = 10.0
#: Seconds before asking a node again that failed to identify itself, or was gone.
AGAIN_SECONDS = 20.0
#: A node that does not answer is asked again after :data:`ANSWER_SECONDS`, then after twice as long, and so on, up to
#: this many seconds.
SILENT_SECONDS = 3600.0
#: Seconds between two polls for nodes and answers.
PAUSE = 0.5


class FederationError(RuntimeError):
    """The run cannot continue with the connected clients; the message says why."""


@dataclass
class _Question:
    """The latest question to a node who it is.

    Attributes:
        name: name of its key.
        at: ``time.monotonic()`` when it was sent.
        unanswered: number of questions to this node since its last answer.
        first: whether the node was never asked before.
        message: id of the question; empty if no answer to it is awaited any more.
    """

    name: str
    at: float
    unanswered: int
    first: bool
    message: str = ""

    def due(self) -> float:
        """Return when to ask again."""
        if not self.message:
            return self.at + AGAIN_SECONDS
        return self.at + min(ANSWER_SECONDS * 2.0 ** min(self.unanswered - 1, 20), SILENT_SECONDS)


@dataclass
class Roster:
    """The clients of a run.

    Attributes:
        run: id of the run.
        expected: names of all clients, if known beforehand; no others may join.
        least: number of clients that must be connected before a round begins.
        wait: seconds to wait for them.
        bound: turn away nodes whose key was admitted without a name.
        admitted: returns the currently admitted clients, name -> public key in the SuperLink's form; a node with
            another key is turned away. ``None``: only the SuperLink decides.
        central: clients may answer for members other than themselves, since one place has the data of all.
        trained: client -> last round that it has trained in; the roster warns of a client whose state is older.
        refused: number of times that a node was turned away.
        members: node id -> its client, in the order of names.
        silent: names of members that are asked again who they are, since they did not answer something else; an answer
            removes the name.
        known: name of every client that was ever connected -> what it last said about itself.
        notify: receives plain event dictionaries.
    """

    run: str = ""
    expected: Sequence[str] = ()
    least: int = 1
    wait: float = 0.0
    bound: bool = False
    central: bool = False
    trained: Mapping[str, int] = field(default_factory=dict)
    refused: int = 0
    members: dict[int, Member] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    known: dict[str, Member] = field(default_factory=dict)
    notify: Callable[[dict[str, Any]], None] = lambda event: None
    admitted: Callable[[], Mapping[str, bytes]] | None = None
    _turned_away: set[int] = field(default_factory=set)
    _keyless: set[int] = field(default_factory=set)
    _questions: dict[int, _Question] = field(default_factory=dict)

    def meet(self, grid: Grid) -> None:
        """Wait until all expected clients are connected, or the waiting time is over.

        Raises:
            FederationError: too few clients are connected.
        """
        awaited = self._awaited()
        first = self._gather(grid, max(self.least, len(awaited)))
        if not self.members and first is not None:
            raise FederationError(str(first))
        self._check(0)
        if absent := [name for name in awaited if name not in self.known]:
            log.warning("starting without %s: not connected after %.0f s", ", ".join(absent), self.wait)

    def refresh(self, grid: Grid, round: int) -> None:
        """Before a round, add new nodes and drop disconnected ones; wait if too few are left.

        Raises:
            FederationError: too few clients are connected.
        """
        self._gather(grid, self.least)
        self._check(round)

    def size(self) -> int:
        """Return the number of all clients of the run, connected or not."""
        return len(self.expected) or len(self.known)

    def _awaited(self) -> Sequence[str]:
        """Return the names of the clients to wait for."""
        if self.admitted is None:
            return self.expected
        there = self.admitted()
        return [name for name in self.expected or sorted(there) if name in there]

    def _gather(self, grid: Grid, wanted: int) -> ReplyError | None:
        """Poll for nodes until ``wanted`` clients are connected or the time is up; return the first failure.

        Nodes that are asked for the first time have :data:`LATE_SECONDS` more to answer, or :data:`ANSWER_SECONDS` if
        the clients are too few for a round. Others are not waited for: what they answer counts when it has come.
        """
        first: ReplyError | None = None
        began = time.monotonic()
        enough: float | None = None
        while True:
            connected = self._let_in(grid)
            for node in [node for node in self.members if node not in connected]:
                log.warning("client %s has gone (node %d)", self.members.pop(node).name, node)
            self._turned_away &= connected.keys()
            self._forget(grid, self._questions.keys() - connected.keys())
            problems = list(self._answered(grid))  # before asking again, which forgets earlier questions
            self._ask(grid, connected)
            problems += self._answered(grid)
            first = first or next(iter(problems), None)
            now, there = time.monotonic(), len(self.members)
            fresh = any(
                question.message and question.first and question.at >= began and node not in self.members
                for node, question in self._questions.items()
            )
            if there >= wanted:
                enough = now if enough is None else enough
                if not fresh or now - enough >= LATE_SECONDS:
                    return first
            patience = ANSWER_SECONDS if there < self.least else LATE_SECONDS
            if now - began >= (max(self.wait, patience) if fresh else self.wait):
                return first
            time.sleep(PAUSE)

    def _let_in(self, grid: Grid) -> dict[int, str]:
        """Return the connected nodes whose keys are admitted, with the names of their keys."""
        nodes = {info.node_id: info for info in grid.get_nodes()}
        if self.admitted is not None:
            keys = self.admitted()
            for node, info in list(nodes.items()):
                if keys.get(info.name) == info.public_key:
                    continue
                del nodes[node]
                if node in self._keyless:
                    continue
                self._keyless.add(node)
                if node in self.members and info.name in keys:
                    log.warning("client %s has a new key; waiting for it to connect (node %d)", info.name, node)
                    continue
                self._refuse(info.name, f"client {info.name}: the key of node {node} is not let in")
        return {node: str(info.name) for node, info in nodes.items()}

    def _ask(self, grid: Grid, nodes: Mapping[int, str]) -> None:
        """Ask nodes (node id -> name of its key) who they are, if that is unknown and they were not asked just now."""
        now = time.monotonic()
        known = {node for node, member in self.members.items() if member.name not in self.silent}
        asked = {
            node: Message(messages.query_content(self.run), node, MessageType.QUERY)
            for node in sorted(nodes.keys() - known - self._turned_away)
            if node not in self._questions or self._questions[node].due() <= now
        }
        if not asked:
            return
        self._forget(grid, asked)
        grid.push_messages(list(asked.values()))
        for node, message in asked.items():
            before = self._questions.get(node)
            unanswered = 1 if before is None else before.unanswered + 1
            self._questions[node] = _Question(nodes[node], now, unanswered, before is None, message.metadata.message_id)

    def _forget(self, grid: Grid, nodes: Iterable[int]) -> None:
        """Await no answer of some nodes any more."""
        found = [self._questions[node] for node in nodes if node in self._questions]
        if isinstance(grid, PollingGrid):
            grid.forget([question.message for question in found])
        for question in found:
            question.message = ""

    def _answered(self, grid: Grid) -> Iterator[ReplyError]:
        """Take in the answers that have come; yield every failure."""
        waiting = {question.message: node for node, question in self._questions.items() if question.message}
        found: dict[int, Member] = {}
        for reply in grid.pull_messages(list(waiting)) if waiting else ():
            node = waiting.pop(reply.metadata.reply_to_message_id, None)
            if node is None:
                continue  # an answer to something else, or a second one
            question = self._questions[node]
            question.message, question.unanswered = "", 0
            try:
                with messages.checking(f"node {node}"):
                    found[node] = messages.read_name(reply)
            except ReplyError as error:
                if error.failed:
                    log.warning("%s", error)
                else:
                    self._refuse(question.name or f"node {node}", str(error))
                yield error
        for node, member in sorted(found.items()):
            name = self._questions[node].name
            if (before := self.members.get(node)) is not None and before.name == member.name:
                self.silent.discard(member.name)
                continue
            if problem := self._problem(grid, node, member, name):
                self.members.pop(node, None)
                self._turned_away.add(node)
                self._refuse(name or member.name, problem)
                yield ReplyError(member.name, problem)
                continue
            if member.name in self.known:
                log.info("client %s is back (node %d)", member.name, node)
            if member.kept < (last := self.trained.get(member.name, 0)):
                log.warning(
                    "client %s has the state of round %d, but it trained in round %d: its later training is lost",
                    member.name,
                    member.kept,
                    last,
                )
            self.silent.discard(member.name)
            self.members[node] = self.known[member.name] = member
        self.members = dict(sorted(self.members.items(), key=lambda item: item[1].name))

    def _refuse(self, client: str, problem: str) -> None:
        """Count, log and announce a node that is turned away, by the name of its key rather than the one it claims."""
        problem = one_line(problem)
        self.refused += 1
        log.warning("%s; turned away", problem)
        event = {"event": "refused", "round": 0, "kind": "query", "client": one_line(client), "reason": problem}
        self.notify(event)

    def _problem(self, grid: Grid, node: int, member: Member, name: str) -> str | None:
        """Return why a node is turned away, or ``None``; ``name`` is the name of its key, empty if unknown."""
        if name and name != member.name:
            return f"node {node} has the key of client {name}, but says it is client {member.name}"
        if self.bound and not name:
            return f"node {node} says it is client {member.name}, but its key was admitted without a name"
        if self.expected and member.name not in self.expected:
            return f"node {node} says it is client {member.name}, which is not in this run"
        if not self.central and member.members != (member.name,):
            others = ", ".join(other for other in member.members if other != member.name) or "nobody"
            return f"client {member.name} answers for {others}, but may answer only for itself"
        for other in (there for at, there in self.members.items() if at != node and there.name != member.name):
            if shared := set(other.members) & set(member.members):
                return f"client {member.name} answers for {', '.join(sorted(shared))}, and so does client {other.name}"
        if (taken := next((n for n, m in self.members.items() if m.name == member.name), None)) is None:
            return None
        if not self._answers(grid, taken):
            log.warning("client %s: node %d does not answer; node %d takes its place", member.name, taken, node)
            del self.members[taken]
            return None
        return f"two nodes say they are client {member.name}: {taken} and {node}"

    def _answers(self, grid: Grid, node: int) -> bool:
        asked = [Message(messages.query_content(self.run), node, MessageType.QUERY)]
        return any(reply.has_content() for reply in grid.send_and_receive(asked, timeout=ANSWER_SECONDS / 10))

    def _check(self, round: int) -> None:
        if len(self.members) < self.least:
            names = ", ".join(member.name for member in self.members.values()) or "none"
            raise FederationError(
                f"round {round}: {len(self.members)} of at least {self.least} clients connected after "
                f"{self.wait:.0f} s ({names}); all results so far are kept, and the run can be resumed"
            )
