"""``feddat export --push`` against a local stand-in for the Hub; without the option, nothing is sent."""

import base64
import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import huggingface_hub.constants
import pytest


class Uploads:
    """The part of the Hub that takes uploads; every file comes in the commit itself.

    Attributes:
        asked: method and path of every request.
        made: bodies of the requests that create repositories.
        files: name -> content of the committed files.
        token: the token that a request must have; others are refused.
    """

    def __init__(self):
        self.asked, self.made, self.files, self.token = [], [], {}, "hf_mine"

    def answer(self, path, body):
        if path == "/api/repos/create":
            self.made.append(json.loads(body))
            return {"url": "http://127.0.0.1/me/model"}
        if path.endswith("/preupload/main"):
            way = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": file["path"]} | way for file in json.loads(body)["files"]]}
        if path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            return {"commitUrl": "http://127.0.0.1/me/model/commit/1", "commitOid": "1", "success": True}
        return {"id": "me/model", "sha": "1"} if path.startswith("/api/models/me/model") else {}

    @contextmanager
    def serving(self):
        taker = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                taker.asked.append((self.command, self.path))
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                known = self.headers.get("authorization") == f"Bearer {taker.token}"
                content = taker.answer(self.path.partition("?")[0], body) if known else {"error": "no such token"}
                data = json.dumps(content).encode()
                self.send_response(200 if known else 401)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, *_):
                """Say nothing."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            thread.start()
            yield f"http://127.0.0.1:{server.server_address[1]}"
            server.shutdown()
            thread.join(5)


@pytest.fixture
def uploads(monkeypatch):
    """A stand-in for the Hub, with its address and token in the environment."""
    made = Uploads()
    with made.serving() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_TOKEN", made.token)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield made


def test_nothing_is_asked_of_the_hub_unless_told(uploads, finished, call, tmp_path):
    assert call("export", finished(method="feddat"), "--out", tmp_path / "out") == 0
    assert uploads.asked == []


@pytest.mark.parametrize("public", [False, True])
def test_the_whole_folder_goes_without_places_of_this_machine(uploads, finished, call, tmp_path, world, capsys, public):
    options = ["--push", "me/model", *["--public"][: int(public)]]
    assert call("export", finished(method="feddat"), "--client", "ann", "--out", tmp_path / "out", *options) == 0
    assert uploads.made[0]["name"] == "model"
    assert uploads.made[0]["visibility"] == ("public" if public else "private")
    sent = {name: content for name, content in uploads.files.items() if name != ".gitattributes"}
    assert sent == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert set(sent) >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    for name, content in sent.items():
        assert str(world).encode() not in content, name
    assert capsys.readouterr().out.strip().endswith("/me/model")


@pytest.mark.parametrize(("repository", "message"), [("me/model", "--push me/model: "), ("a/b/c", "--push a/b/c: ")])
def test_what_goes_wrong_is_said_and_the_folder_stays(uploads, finished, call, tmp_path, capsys, repository, message):
    uploads.token = "hf_another"
    assert call("export", finished(method="feddat"), "--out", tmp_path / "out", "--push", repository) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert (tmp_path / "out" / "README.md").exists()


def test_a_hub_that_is_not_there(finished, call, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert call("export", finished(method="feddat"), "--out", tmp_path / "out", "--push", "me/model") == 2
    assert "--push me/model: " in capsys.readouterr().err
