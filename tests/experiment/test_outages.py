"""A SuperLink whose storage fails for a while or whose helper process ends, and nodes that survive errors."""

import asyncio
import errno
import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest, SendTaskHeartbeatResponse
from flwr.supercore.error import http_error_translator
from flwr.supercore.run import RunNotRunningException
from sqlalchemy import create_engine, text
from starlette.requests import Request
from starlette.responses import Response

from feddat.deploy.node import patient_retries, task_client, task_heartbeat
from feddat.deploy.outages import Outages, keep_running, storage_problem


def full_database():
    """Return the error of a database whose disk is full."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("CREATE TABLE t (x)")
        database.execute("PRAGMA max_page_count = 2")
        try:
            database.execute("INSERT INTO t VALUES (zeroblob(100000))")
        except sqlite3.OperationalError as error:
            return error
    raise AssertionError("the database took what it has no room for")


def wrong_statement():
    """Return the error of a statement that can never succeed."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute("SELECT * FROM nothing")
        except sqlite3.OperationalError as error:
            return error
    raise AssertionError("there is such a table")


def outages():
    """Return a function that sends a request and gives its status, and a list for the error that the handler raises."""
    raised = []

    async def handler(request):
        if raised:
            raise raised[0]
        return Response()

    app = Outages(http_error_translator, quiet=0.0)

    def ask():
        request = Request({"type": "http", "path": "/v1/fleet/x", "headers": [], "query_string": b""})
        return asyncio.run(app(request, handler)).status_code

    return ask, raised


@pytest.mark.parametrize(
    "error",
    [full_database(), OSError(errno.ENOSPC, "No space left on device")],
    ids=["database", "disk"],
)
def test_clients_are_asked_to_try_again_and_one_line_tells_of_it(error, caplog):
    ask, raised = outages()
    assert ask() == 200 and not caplog.records
    raised.append(error)
    assert [ask() for _ in range(3)] == [503] * 3
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and str(error) in record.getMessage()
    raised.clear()
    assert ask() == ask() == 200
    assert "works again" in caplog.records[1].getMessage() and "3 request(s) failed" in caplog.records[1].getMessage()
    assert len(caplog.records) == 2


def test_a_real_database_that_cannot_be_written(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path / 'a.db'}")
    with engine.begin() as database:
        database.execute(text("CREATE TABLE t (x)"))
    readonly = create_engine(f"sqlite:///file:{tmp_path / 'a.db'}?mode=ro&uri=true")
    with pytest.raises(Exception, match="readonly") as caught, readonly.begin() as database:
        database.execute(text("INSERT INTO t VALUES (1)"))
    assert storage_problem(caught.value) == "attempt to write a readonly database"


@pytest.mark.parametrize("error", [ValueError("x"), OSError(errno.ENOENT, "no such file"), wrong_statement()])
def test_other_errors_are_flowers_business(error):
    ask, raised = outages()
    raised.append(error)
    assert ask() == 500 and storage_problem(error) is None


def test_the_helper_is_started_again_until_the_superlink_stops(caplog):
    class Lifespan:
        superexec_process = None
        started = 0

        def start(self):
            seconds = "0.1" if self.started < 2 else "60"
            self.superexec_process = subprocess.Popen(
                [sys.executable, "-c", f"import time; time.sleep({seconds}); raise SystemExit(5)"]
            )
            self.started += 1

    owner = Lifespan()
    owner.start()
    thread = keep_running(owner, owner.start, pause=0.2)
    until = time.monotonic() + 30
    while owner.started < 3 and time.monotonic() < until:
        time.sleep(0.05)
    assert owner.started == 3
    assert [record.getMessage() for record in caplog.records] == [
        "the process that starts runs has ended (code 5); starting another"
    ] * 2
    process, owner.superexec_process = owner.superexec_process, None
    process.terminate()
    process.wait()
    thread.join(10)
    assert not thread.is_alive() and owner.started == 3


def failing_with(errors):
    """Return the number of a node's attempts if the first raise ``errors``; raise the error at which it gives up."""
    asked = []

    def ask():
        asked.append(None)
        if len(asked) <= len(errors):
            raise errors[len(asked) - 1]
        return len(asked)

    invoker = patient_retries()
    invoker.wait_function = lambda seconds: None
    return invoker.invoke(ask)


def test_a_node_goes_on_after_a_handshake_that_broke_off():
    broken = [
        httpx.ConnectTimeout("_ssl.c:989: The handshake operation timed out"),
        httpx.ConnectError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of protocol (_ssl.c:1006)"),
        httpx.ReadError("[Errno 104] Connection reset by peer"),
    ]
    assert failing_with(broken) == 4


def test_a_certificate_that_does_not_fit_ends_a_node():
    wrong = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: timed out of validity")
    with pytest.raises(httpx.ConnectError):
        failing_with([wrong])


class Waiting:
    """A SuperNode that answers a message's heartbeats with ``answer``, or raises it."""

    def __init__(self, answer):
        self.answer = answer

    def SendTaskHeartbeat(self, request):
        if isinstance(self.answer, Exception):
            raise self.answer
        return SendTaskHeartbeatResponse(success=self.answer)


def status(code):
    request = httpx.Request("POST", "http://127.0.0.1")
    return httpx.HTTPStatusError(str(code), request=request, response=httpx.Response(code, request=request))


@pytest.mark.parametrize(
    ("answer", "works"),
    [(True, True), (False, True), (httpx.ReadTimeout("slow"), False), (status(503), False), (status(401), True)],
    ids=str,
)
def test_a_message_that_nobody_waits_for_does_not_end_the_node(answer, works):
    """Flower's own function would interrupt this process, which would end the test."""
    assert task_heartbeat(Waiting(answer)) is works


@contextmanager
def refusing(code):
    """Serve ``code`` to every POST request on a loopback port; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def interrupts(monkeypatch):
    """Return a list of the signals that this process sends to itself, which then have no effect."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    return sent


@pytest.mark.parametrize("code", [401, 403])
def test_a_heartbeat_after_the_answer_does_not_end_the_node(code, interrupts):
    """401: the message's token is no longer valid. 403: the run has ended."""
    with refusing(code) as address, task_client(address, "token") as client:
        assert task_heartbeat(client) is True
        with pytest.raises((httpx.HTTPStatusError, RunNotRunningException)):
            client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
    assert interrupts == []
