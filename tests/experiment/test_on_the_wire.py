"""What an eavesdropper sees on an unencrypted line of a deployment, and what other machines can reach."""

import asyncio
import json
import socket
import threading
import time

import pytest
from safetensors.torch import load_file

from feddat.deploy.control import Control, app_project
from feddat.deploy.link import OnlyFleetFromOutside
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment import Experiment
from feddat.experiment.serving.app_config import AppConfig, to_flat, to_toml


class Tap:
    """A proxy on the loopback address that keeps every byte that passes: ``up`` to the server, ``down`` from it."""

    def __init__(self, server_port):
        self.up, self.down, self._server_port = bytearray(), bytearray(), server_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for source, sink, kept in ((client, server, self.up), (server, client, self.down)):
                threading.Thread(target=self._pump, args=(source, sink, kept), daemon=True).start()

    def _pump(self, source, sink, kept):
        try:
            while data := source.recv(65536):
                kept.extend(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def close(self):
        self._listener.close()


@pytest.mark.slow
def test_nothing_of_the_data_and_nothing_personal_is_on_the_line(make_config, tmp_path):
    config = make_config(threads=1, name="tapped")
    link, *ports = free_ports(3)
    tap = Tap(link)
    with Processes(tmp_path / "logs") as processes:
        arguments = ["--insecure", "--host", "127.0.0.1", "--port", str(link)]
        processes.start("superlink", ["deploy", "link", *arguments], {"FLWR_HOME": str(tmp_path / "home")})
        control = Control(f"127.0.0.1:{link}", None, tmp_path / "home")
        control.wait(120)
        # Settings travel, so here they must not name the clients' files.
        server_config = config.updated({"runs_dir": str(tmp_path / "runs"), "clients": {"ann": {}, "bob": {}}})
        for name, port in zip(("ann", "bob"), ports, strict=True):
            site = tmp_path / f"{name}.yaml"
            policy = {"approval": "first-use", "min_examples": 10, "min_questions": 3, "guarded_steps": False}
            policy["bounds"] = {"train.steps": [2, 2], "train.batch_size": [5, 5]}
            own = {"client": name, "data": config.clients[name], "state": str(tmp_path / "state"), "policy": policy}
            site.write_text(json.dumps(own | {"model": config.model, "threads": 1}))
            node = ["--superlink", f"127.0.0.1:{tap.port}", "--insecure"]
            node += ["--node-config", f'client="{name}" data="{site}"']
            processes.start(name, ["deploy", "node", str(port), *node], {"FLWR_HOME": str(tmp_path / f"home-{name}")})
        run = control.start_run({}, app_project(to_toml(to_flat(AppConfig(server_config)))))
        end = time.monotonic() + 240
        while control.failure(run) is None:
            assert time.monotonic() < end
            time.sleep(0.5)
        assert control.failure(run) == ""
        control.close()
    tap.close()
    line = bytes(tap.up + tap.down)
    folder = Experiment(server_config).folder
    # The tap works: it has every byte of the shared adapter.
    shared = load_file(folder.checkpoints / "round-00001" / "adapter_model.safetensors")
    assert all(value.numpy().tobytes() in line for value in shared.values() if value.count_nonzero())
    for word in (b"what is", b"color", b"green", b"blue", b".png", b".jsonl", b"train0"):
        assert word not in line, word
    states = sorted((tmp_path / "state").rglob("round-0002.safetensors"))
    assert len(states) == 2
    for state in states:
        for key, value in load_file(state).items():
            # The anchor is the adapter that the client received.
            if value.numel() > 4 and value.count_nonzero() and not key.startswith("anchor."):
                assert value.numpy().tobytes() not in line, f"{state.parent.name}: {key}"
    assert folder.summary()["bytes"]["up"] < len(tap.up)


@pytest.mark.parametrize(
    ("path", "client", "status"),
    [
        ("/v1/fleet/pull-messages", "10.0.0.9", 200),
        ("/health", "10.0.0.9", 200),
        ("/v1/control/start-run", "10.0.0.9", 403),
        ("/v1/control/register-node", "10.0.0.9", 403),
        ("/v1/runtime/acquire-task", "10.0.0.9", 403),
        ("/docs", "10.0.0.9", 403),
        ("/v1/control/start-run", "127.0.0.1", 200),
        ("/v1/control/start-run", "::1", 200),
        ("/v1/control/start-run", None, 403),
    ],
)
def test_other_machines_reach_only_what_clients_need(path, client, status):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "client": client and (client, 5555)}
    asyncio.run(OnlyFleetFromOutside(app)(scope, None, send))
    assert sent[0]["status"] == status


def test_no_websocket_of_another_machine_is_opened():
    reached, sent = [], []

    async def app(scope, receive, send):
        reached.append(scope["type"])

    async def send(message):
        sent.append(message)

    guard = OnlyFleetFromOutside(app)
    asyncio.run(guard({"type": "websocket", "path": "/v1/control/logs", "client": ("10.0.0.9", 5555)}, None, send))
    assert (reached, sent) == ([], [{"type": "websocket.close"}])
    asyncio.run(guard({"type": "lifespan"}, None, send))
    assert reached == ["lifespan"]
