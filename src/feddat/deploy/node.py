"""A client's side of a deployment: Flower's SuperNode, and one long-lived worker process beside it.

Flower starts a new process for every message, which then loads libraries, the foundation model and the data. For large
models this takes minutes. Here one worker process loads them once and handles one message after another. It runs the
client app of the package installed on this machine, whatever app the server sends, so no code of the server runs here.
If the worker dies (killed, out of memory), its message is answered with an error, and the next one gets a new worker.
The server of a client with its own file learns no reason.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import httpx
from flwr.app import ArrayRecord, Context, Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, context_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.retry import RetryInvoker, make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from feddat.app.codes import FAILED
from feddat.app.grid import CLIENT_KEY, SITE_KEY
from feddat.deploy.bundle import BundleError, app_config, check_bundle
from feddat.deploy.names import CLIENT_APP
from feddat.deploy.tokens import task_signer
from feddat.files import SECRET_BYTES
from feddat.log import JsonLog
from feddat.parent import end_with_parent
from feddat.workers import out_of_reach

log = logging.getLogger(__name__)

#: Seconds between two polls for a message.
PAUSE = 0.3
#: Seconds before connecting again; Flower ends the process five seconds after it has given up.
AGAIN_SECONDS = 3.0
#: Flower's own interval of heartbeats, in seconds.
HEARTBEAT_SECONDS = 30.0


def run_node(
    arguments: Sequence[str],
    port: int,
    again: Sequence[str] = (),
    heartbeat: float = HEARTBEAT_SECONDS,
    log_file: Path | None = None,
    accepted: Callable[[], None] | None = None,
) -> None:
    """Run a SuperNode until the process ends.

    Args:
        arguments: arguments of ``flower-supernode``.
        port: port on this machine's loopback address where the SuperNode hands over messages.
        again: arguments of ``feddat`` with which to restart this process if the server does not let it in: the server
            may not be up yet, or may not know this client's key yet. Default: the process ends.
        heartbeat: seconds between heartbeats; the server considers the node gone after two without a sign of life.
        log_file: file of JSON lines that log what this process and its worker do.
        accepted: called once, when the server has accepted this node's key.
    """
    from flwr.supercore import heartbeat as sender
    from flwr.supernode import fleet_http_connection as connection
    from flwr.supernode import start_client_internal as internal

    cli = import_module("flwr.supernode.cli.flower_supernode")  # its package has a function of this name

    _keep(log_file)
    # Flower has no option for the heartbeat: these set the announced interval and the actual one.
    vars(sender)["HEARTBEAT_DEFAULT_INTERVAL"] = vars(connection)["HEARTBEAT_DEFAULT_INTERVAL"] = heartbeat
    sys.argv = ["flower-supernode", *arguments, "--isolation", "process", "--host", "127.0.0.1", "--port", str(port)]
    # Every account on this machine can connect to that port. Tasks go only to holders of this key, which no file holds.
    key = secrets.token_bytes(SECRET_BYTES)
    sys.argv += ["--superexec-auth-secret-file", "-"]
    vars(cli)["load_superexec_auth_secret"] = lambda secret_file: key
    name = "get_fused_config_from_fab"
    vars(internal)[name] = _settings_of_app(vars(internal)[name])
    refused = threading.Event()
    vars(connection)["NodeAuthHttpInterceptor"] = _noting(refused, accepted)
    vars(connection)["make_simple_http_retry_invoker"] = patient_retries
    threading.Thread(target=_Tasks(f"127.0.0.1:{port}", log_file, key).serve, daemon=True).start()
    failed = False
    try:
        cli.flower_supernode()
    except SystemExit as end:
        failed = bool(end.code)
        if not again or not (failed or refused.is_set()):
            raise
    if again and (failed or refused.is_set()):
        log.warning("not let in by the server; trying again")
        time.sleep(AGAIN_SECONDS)
        # Flower leaves threads behind that end this process soon, so replace the whole process.
        os.execv(sys.executable, [sys.executable, "-m", "feddat.cli", *again])


def _settings_of_app(of_app: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wrap Flower's reader of a run's settings: return none for an archive that must not be unpacked."""

    def settings(content: bytes, *others: Any) -> dict[str, Any]:
        try:
            check_bundle(content)
        except BundleError:
            return {}  # the replies to its messages give the reason
        return of_app(content, *others)

    return settings


def _wrong_app(content: bytes) -> str | None:
    """Return why an app is not the one that runs here, or ``None`` if it is."""
    try:
        asked = app_config(content)["tool"]["flwr"]["app"]["components"]["clientapp"]
    except BundleError as error:
        return str(error)
    return None if asked == CLIENT_APP else f"this node runs {CLIENT_APP} and no other app (asked for {asked})"


def _noting(refused: threading.Event, accepted: Callable[[], None] | None) -> type[NodeAuthHttpInterceptor]:
    """Return an interceptor that signs a node's messages, and notes if the server refuses or first accepts them.

    After a refusal, Flower ends the node as if somebody had asked it to.
    """
    waiting = [] if accepted is None else [accepted]

    class Noting(NodeAuthHttpInterceptor):
        def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
            answer = super().intercept(context, call_next)
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                refused.set()
            if waiting and answer.is_success:
                waiting.pop()()
            return answer

    return Noting


def task_heartbeat(client: RuntimeHttpClient) -> bool:
    """Tell the SuperNode that a message is still being answered; return whether that worked.

    Flower's own function interrupts its process if the SuperNode no longer waits for the answer, for example because
    the answer has just arrived. Its process has one message; ours is the whole node, and goes on.
    """
    try:
        client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    except RunNotRunningException:
        return True
    except httpx.TransportError:
        return False
    except httpx.HTTPStatusError as error:
        return error.response.status_code not in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
    return True


def task_client(address: str, token: str) -> RuntimeHttpClient:
    """Return a client for one message, which talks to the SuperNode at ``address`` with the message's token.

    Flower's retries interrupt the process if the token is refused, as it is once the message has been answered: a
    heartbeat can arrive just after that. Here the call raises ``httpx.HTTPStatusError``, and the node goes on.
    """
    invoker = make_simple_http_retry_invoker()
    gives_up = cast(Callable[[Exception], bool], invoker.should_giveup)
    invoker.should_giveup = lambda error: _is_unauthorized(error) or gives_up(error)
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            RuntimeTokenHttpInterceptor(token),
        ],
        retry_invoker=invoker,
    )


def _is_unauthorized(error: Exception) -> bool:
    return isinstance(error, httpx.HTTPStatusError) and error.response.status_code == httpx.codes.UNAUTHORIZED


def patient_retries() -> RetryInvoker:
    """Return Flower's retries, which here go on after a TLS handshake that breaks off.

    Flower gives up after every error that mentions TLS, and leaves a node that does nothing. A handshake also fails if
    the server restarts, or the network stalls, in the middle of it. A certificate that does not fit is still the end.
    """
    invoker = make_simple_http_retry_invoker()
    gives_up = cast(Callable[[Exception], bool], invoker.should_giveup)
    invoker.should_giveup = lambda error: not _breaks_off(error) and gives_up(error)
    return invoker


def _breaks_off(error: Exception) -> bool:
    text = str(error).lower()
    return (
        isinstance(error, httpx.TransportError)
        and "certificate" not in text
        and any(part in text for part in ("timed out", "eof occurred", "reset by peer"))
    )


class _Tasks:
    """Take messages from the SuperNode of this process, and return the replies.

    Each message has its own thread, although only one is answered at a time. If the server was killed while it sent a
    message, that message never becomes complete, and Flower waits hours for the rest.
    """

    def __init__(self, address: str, log_file: Path | None, key: bytes) -> None:
        self._address, self._key = address, key
        self._worker = _Worker(log_file)
        self._turn = threading.Lock()

    def serve(self) -> None:
        client = self._client()
        while True:
            try:
                found = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
            except httpx.HTTPError:
                found = None  # the SuperNode is not up yet
            if found is not None and found.HasField("task") and found.token:
                threading.Thread(target=self._try_to_answer, args=(found.token,), daemon=True).start()
            time.sleep(PAUSE)

    def _try_to_answer(self, token: str) -> None:
        try:
            self._answer(token)
        except RunNotRunningException:  # Flower derives it from BaseException
            log.warning("the run has ended, and its message needs no answer")
        except Exception:  # A message that cannot be answered must not block the next one.
            log.exception("a message could not be answered")

    def _answer(self, token: str) -> None:
        client = task_client(self._address, token)
        heartbeat = HeartbeatSender(partial(task_heartbeat, client))
        heartbeat.start()
        try:
            message, context, _, fab = pull_task_input(client)
            if problem := _wrong_app(fab.content):
                reply = _error(message, problem)
            else:
                with self._turn:
                    reply = self._worker.answer(message, context)
            push_message(client, reply, context)
            failed = reply.has_error()
            status = SubStatus.FAILED if failed else SubStatus.COMPLETED
            push_task_output(client, context, status, str(reply.error.reason) if failed else "")
        finally:
            if heartbeat.is_running:
                heartbeat.stop()
            client.close()

    def _client(self) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._address,
            insecure=True,
            root_certificates=None,
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), task_signer(self._key)],
        )


class _Worker:
    """A process that runs the client app; started with the first message, and again after it has died."""

    def __init__(self, log_file: Path | None) -> None:
        self._process: BaseProcess | None = None
        self._log_file = log_file

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_work, args=(theirs, self._log_file), daemon=True, name="feddat-worker")
        with out_of_reach():
            self._process.start()
        theirs.close()
        log.info("worker process %d", self._process.pid)

    def answer(self, message: Message, context: Context) -> Message:
        """Return the client app's reply, or an error if its process dies meanwhile."""
        if self._process is None or not self._process.is_alive():
            self._start()
        identity = (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id)
        try:
            self._pipe.send((identity, _sendable(message), context_to_proto(context).SerializeToString()))
            reply: Message = self._pipe.recv()
            return reply
        except (EOFError, OSError):
            process = cast(BaseProcess, self._process)
            process.join()
            reason = f"its worker process ended (exit code {process.exitcode})"
            _warn(message, context, f"{reason}; the next message gets a new one")
            return _failed(message, context, reason)


def _sendable(message: Message) -> Message:
    """Return a message of any size that can pass through the pipe between this process and its worker.

    A protocol buffer is limited to 2 GiB and would take two more copies in memory. Flower's cached chunks of an array
    are views that cannot be pickled, so remove them.
    """
    for record in message.content.values() if message.has_content() else ():
        if isinstance(record, ArrayRecord):
            for array in record.values():
                vars(array).pop("_chunks", None)
    return message


def _failed(message: Message, context: Context, reason: str) -> Message:
    """Return the reply to a message that failed: only a code if the client has its own file."""
    return _error(message, FAILED if context.node_config.get(SITE_KEY) else reason)


def _error(message: Message, reason: str) -> Message:
    return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


def _warn(message: Message, context: Context, reason: str) -> None:
    """Log that a message gets an error reply."""
    kind, round = message.metadata.message_type, message.metadata.group_id
    what = {"event": "failed", "kind": kind, "reason": reason, "client": context.node_config.get(CLIENT_KEY)}
    what["round"] = int(round) if round.isdecimal() else None
    log.warning("round %s, %s: %s", round, kind, reason, extra={"event": what})


def _keep(log_file: Path | None) -> None:
    """Write the package's log records in this process to a file of JSON lines."""
    if log_file is not None:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        logger = logging.getLogger("feddat")
        logger.setLevel(logging.INFO)
        logger.addHandler(JsonLog(log_file, logging.INFO))


def _work(pipe: Connection, log_file: Path | None) -> None:
    """Answer messages until the pipe closes or the parent process is gone."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    _keep(log_file)
    from feddat.experiment.serving.flower import client_app

    with suppress(EOFError):
        while True:
            identity, message, context_bytes = pipe.recv()
            TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = identity
            context = context_from_proto(ProtoContext.FromString(context_bytes))
            try:
                reply = client_app(message, context)
            except Exception as error:  # The server counts every error of a client.
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                _warn(message, context, reason)
                reply = _failed(message, context, reason)
            pipe.send(_sendable(reply))
            del message, reply  # they can be large, and the next message may take long to arrive
