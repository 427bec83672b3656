"""A node goes on with the next message if one never arrives completely or cannot be answered."""

import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.proto.runtime_pb2 import AcquireTaskResponse
from flwr.proto.task_pb2 import Task

from feddat.app.grid import identify
from feddat.deploy import node
from feddat.deploy.names import CLIENT_APP


def test_a_message_that_never_becomes_whole_does_not_keep_the_node_from_the_next(monkeypatch, caplog):
    """The server was killed while it sent the message; Flower waits two hours for the rest."""
    tokens, answered, over = ["torn", "broken", "whole"], [], threading.Event()

    class SuperNode:
        def __init__(self, token=None):
            self.token = token

        def AcquireTask(self, request):
            if over.is_set():
                raise SystemExit
            return AcquireTaskResponse(task=Task(), token=tokens.pop(0)) if tokens else AcquireTaskResponse()

        def close(self):
            pass

    def pull(client):
        if client.token == "torn":
            over.wait(60)
        if client.token != "whole":
            raise RuntimeError("No messages received")
        return "message", "context", None, SimpleNamespace(content=b"")

    def push(client, reply, context):
        answered.append(reply)
        over.set()

    components = {"tool": {"flwr": {"app": {"components": {"clientapp": CLIENT_APP}}}}}
    heartbeat = SimpleNamespace(start=lambda: None, is_running=False)
    monkeypatch.setattr(node, "PAUSE", 0.01)
    monkeypatch.setattr(node, "pull_task_input", pull)
    monkeypatch.setattr(node, "push_message", push)
    monkeypatch.setattr(node, "push_task_output", lambda *of: None)
    monkeypatch.setattr(node, "app_config", lambda content: components)
    monkeypatch.setattr(node, "HeartbeatSender", lambda beat: heartbeat)
    monkeypatch.setattr(node, "task_client", lambda address, token: SuperNode(token))
    tasks = node._Tasks("127.0.0.1:1", None, b"key")
    monkeypatch.setattr(tasks, "_client", SuperNode)
    reply = SimpleNamespace(has_error=lambda: False)
    monkeypatch.setattr(tasks._worker, "answer", lambda message, context: reply)

    def serve():
        with suppress(SystemExit):
            tasks.serve()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert over.wait(10), "the third message is stuck behind the first"
    thread.join(10)
    assert answered == [reply]
    assert "a message could not be answered" in caplog.text


@pytest.mark.parametrize(
    ("own", "told"), [({"data": "client.yaml"}, "failed: see its log"), ({}, "its worker process ended (exit code -9)")]
)
def test_the_server_of_a_client_with_its_own_file_learns_no_reason_if_the_worker_dies(caplog, own, told):
    class Killed:
        exitcode = -9
        is_alive = staticmethod(lambda: True)
        join = staticmethod(lambda: None)

    class Broken:
        def send(self, what):
            pass

        def recv(self):
            raise EOFError

    identify(1)
    worker = node._Worker(None)
    worker._process, worker._pipe = Killed, Broken()
    context = Context(1, 1, {"client": "ann"} | own, RecordDict(), {})
    message = Message(RecordDict(), 1, "train", group_id="1")
    message.metadata.__dict__["_message_id"] = "1"
    assert worker.answer(message, context).error.reason == told
    assert "its worker process ended (exit code -9)" in caplog.text
