"""Attacks through a real SuperLink, with real keys, on the real server app; each round has another attack."""

import json
import re
import socket
import ssl
from pathlib import Path

import numpy as np
import pytest
from flower_node import answering
from flwr.app import Array, ArrayRecord, RecordDict

from feddat.app import messages
from feddat.app.messages import Member
from feddat.config import load_config
from feddat.deploy.control import Control, app_project, let_in
from feddat.deploy.folder import write_consortium
from feddat.deploy.launch import start_link
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment.serving.app_config import AppConfig, to_flat, to_toml
from helpers import make_tiny_vilt

pytestmark = pytest.mark.slow  # a SuperLink and its app take half a minute to start
ROUNDS = 5


def honest(node, asked, name):
    """Return an honest client's answer; its training adds 0.001 to every number."""
    kind = asked.metadata.message_type
    if kind == "query":
        return messages.name_reply(asked, Member(name, (name,), {}, "scores", 10)).content
    told = messages.read_instruction(asked)
    if kind == "train":
        moved = {key: value + 0.001 for key, value in told.shared.items()}
        return messages.train_reply(asked, told.round, moved, 10, {"loss": 1.0, "steps": 1.0, "examples": 10.0}).content
    return messages.evaluate_reply(asked, told.round, name, {name: {"global": 50.0}}, {name: 4}).content


class Eve:
    """A client with bob's key that attacks in a different way in each round."""

    def __init__(self):
        self.ann = None

    def __call__(self, node, asked):
        content = honest(node, asked, "bob")
        if asked.metadata.message_type != "train":
            node.answer(content, asked)
            return
        match messages.read_instruction(asked).round:
            case 1:  # a reply that never becomes complete
                node.answer(content, asked, whole=False)
            case 2:  # a reply that claims to be ann's answer to ann's message
                arrays = {key: Array(np.full_like(value.numpy(), 0.5)) for key, value in content["shared"].items()}
                forged = RecordDict({"shared": ArrayRecord(arrays), "metrics": content["metrics"]})
                node.answer(forged, asked, forge=dict(self.ann))
            case 3:  # a reply that is too large
                more = ArrayRecord({**content["shared"], "more": Array(np.zeros(5_000_000, np.float32))})
                node.answer(RecordDict({"shared": more, "metrics": content["metrics"]}), asked)
            case 4:  # a reply with an invalid part
                node.answer_with(asked, b"Message \x1b[2J,,, 9999999999\x00junk")
            case 5:  # a record in place of a message
                record = content["metrics"]
                node.answer_with(asked, record.deflate())


@pytest.fixture(scope="module")
def attacked(tmp_path_factory):
    """Return what a run leaves in which ann is honest, bob attacks, and carl claims to be ann."""
    folder = tmp_path_factory.mktemp("superlink")
    make_tiny_vilt(folder / "model")
    (port,) = free_ports(1)
    server = write_consortium(folder / "c", ["ann", "bob", "carl"], ["127.0.0.1"], port)
    config = load_config(
        None,
        None,
        **{"name": "run", "runs_dir": str(folder / "runs"), "method": "fedavg", "model": str(folder / "model")},
        **{"benchmark": None, "clients": {"ann": {}, "bob": {}, "carl": {}}, "rounds": ROUNDS, "eval.every": ROUNDS},
        **{"server.min_clients": 1, "server.wait": 5.0, "server.deadline": 45.0, "threads": 1},
        **{"runtime.kind": "deployment", "server.max_outlier": 1e9},
    )
    eve, seen = Eve(), {}

    def ann(node, asked):
        if asked.metadata.message_type == "train":
            eve.ann = {k: v for k, v in asked.metadata.__dict__.items() if k in ("_message_id", "_dst_node_id")}
            eve.ann = {"_reply_to_message_id": eve.ann["_message_id"], "_src_node_id": eve.ann["_dst_node_id"]}
        node.answer(honest(node, asked, "ann"), asked)

    def carl(node, asked):
        node.answer(honest(node, asked, "ann"), asked)

    with Processes(folder / "logs") as processes:
        start_link(processes, server)
        control = Control(server.local_address, server.authority)
        control.wait(120)
        let_in(control, server)
        link = processes._running["superlink"].pid
        seen["bodies"] = bodies(port, server.authority, link)
        places = {name: folder / "c" / "clients" / name for name in ("ann", "bob", "carl")}
        address = server.local_address
        with (
            answering(places["ann"], address, ann),
            answering(places["bob"], address, eve),
            answering(places["carl"], address, carl),
        ):
            run = control.start_run({}, app_project(to_toml(to_flat(AppConfig(config)))))
            wait(lambda: control.failure(run) is not None, processes)
            seen["failure"] = control.failure(run)
        control.close()
    path = folder / "runs" / "run"
    seen["log"] = (path / "log.jsonl").read_text()
    seen["lines"] = [json.loads(line) for line in seen["log"].splitlines()]
    seen["metrics"] = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    seen["summary"] = json.loads((path / "summary.json").read_text())
    return seen


def wait(done, processes, seconds=400):
    """Wait until ``done()`` is true."""
    import time

    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, processes.log("superlink").read_text()[-4000:]
        time.sleep(0.2)


def resident(pid):
    """Return the resident memory of a process, in MiB."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def bodies(port, authority, pid):
    """Send 300 MB with and without an announced length; return each answer and the server's growth in MiB."""
    found = []
    for path, announced in (("/v1/fleet/push-object", True), ("/v1/fleet/pull-messages", False)):
        before = resident(pid)
        context = ssl.create_default_context(cafile=str(authority))
        plain = socket.create_connection(("127.0.0.1", port), 20)
        connection = context.wrap_socket(plain, server_hostname="127.0.0.1")
        length = b"Content-Length: 300000000" if announced else b"Transfer-Encoding: chunked"
        connection.sendall(
            b"POST "
            + path.encode()
            + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/protobuf\r\n"
            + length
            + b"\r\n\r\n"
        )
        part = b"\0" * 2**20
        connection.settimeout(20)
        try:
            for _ in range(300):
                connection.sendall(part if announced else b"100000\r\n" + part + b"\r\n")
        except OSError:
            pass  # the server closed the connection
        try:
            answer = connection.recv(200)
        except OSError:
            answer = b""
        connection.close()
        found.append((answer, resident(pid) - before))
    return found


def test_the_run_ends_with_the_honest_ones_numbers(attacked):
    assert attacked["failure"] == ""
    summary = attacked["summary"]
    # A refusal by the SuperLink can end bob's node; then bob has no score.
    assert summary["clients"] | {"bob": {"score": 50.0}} == {"ann": {"score": 50.0}, "bob": {"score": 50.0}}
    assert "carl" in summary["missing"]
    trained = [(line["round"], line["client"]) for line in attacked["metrics"] if line.get("split") == "train"]
    assert [round for round, client in trained if client == "ann"] == [1, 2, 3, 4, 5]
    assert [round for round, client in trained if client == "bob"] == [2]


def test_a_key_that_is_not_anns_is_not_ann(attacked):
    told = [line for line in attacked["lines"] if line["event"] == "refused" and line["kind"] == "query"]
    assert [line["client"] for line in told] == ["carl"]
    assert re.fullmatch(r"node \d+ has the key of client carl, but says it is client ann", told[0]["reason"])


def test_each_attack_costs_its_own_reply_and_one_line(attacked):
    told = {
        line["round"]: line["reason"]
        for line in attacked["lines"]
        if line["event"] in ("failed", "refused") and line["round"]
    }
    assert told[1] == "has not answered within 45 s; a later reply is ignored"
    assert 2 not in told, "what was signed as ann's is bob's"
    assert told[3].startswith("its reply cannot be read: it has more than ")
    # The SuperLink itself can refuse the last two attacks: then their replies never become complete, or the node ends.
    for reason in (told[4], told.get(5, "its node has gone")):
        assert re.match("its reply cannot be read: |has not answered within|its node has gone", reason)
    assert {line["client"] for line in attacked["lines"] if line["event"] == "failed"} == {"bob"}
    assert attacked["summary"]["failed"] + attacked["summary"]["refused"] >= 4
    assert all(text.isprintable() for text in attacked["log"].splitlines())


def test_a_reply_signed_as_anothers_is_its_senders(attacked):
    of_two = {
        line["client"]: line for line in attacked["metrics"] if line.get("split") == "train" and line["round"] == 2
    }
    assert sorted(of_two) == ["ann", "bob"]


def test_a_body_without_a_known_signature_is_not_read(attacked):
    for answer, grown in attacked["bodies"]:
        assert answer == b"" or answer.startswith(b"HTTP/1.1 401")
        assert grown < 40
