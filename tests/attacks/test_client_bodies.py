"""Request bodies and apps that would fill the memory are refused before they are read or unpacked."""

import asyncio
import contextlib
import datetime
import io
import resource
import time
import zipfile
from base64 import b64encode

import pytest
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

from feddat.deploy import patience
from feddat.deploy.bodies import MOST_BODY, BoundedBodies
from feddat.deploy.bundle import MOST_ARCHIVE, MOST_FILE, BundleError, app_config
from feddat.deploy.control import app_project
from feddat.deploy.node import _settings_of_app, _wrong_app

KEY, OTHER = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())


def signed(key=KEY, by=None, stamp=None):
    """Return request headers as Flower's nodes send them."""
    stamp = stamp or datetime.datetime.now(datetime.UTC).isoformat()
    signature = sign_message(by or key, stamp.encode())
    public = public_key_to_bytes(key.public_key())
    return {
        "Flwr-Public-Key": b64encode(public),
        "flwr-signature": b64encode(signature),
        "flwr-timestamp": stamp.encode(),
    }


def posted(head, parts, path="/v1/fleet/push-object", knows=True, **options):
    """Post a body in parts; return the status, the number of bytes read, and whether the SuperLink received it."""
    known = public_key_to_bytes(KEY.public_key())
    left, read, sent, reached = list(parts), [], [], []

    async def receive():
        part = left.pop(0) if left else b""
        read.append(len(part))
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    async def link(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        reached.append(True)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = BoundedBodies(link, (lambda key: key == known) if knows else None, **options)
    headers = [(name.lower().encode(), value) for name, value in head.items()]
    asyncio.run(guard({"type": "http", "path": path, "headers": headers}, receive, send))
    return sent[0]["status"], sum(read), bool(reached)


PART = b"x" * 2**20


def test_a_clients_request_passes():
    assert posted(signed() | {"content-length": b"5242880"}, [PART] * 5) == (200, 5 * 2**20, True)
    assert posted({}, [PART], path="/health")[0] == 200


OLD = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)).isoformat()


@pytest.mark.parametrize(
    "head",
    [
        {},
        signed(OTHER),
        signed(KEY, by=OTHER),
        signed(stamp=OLD),
        signed(stamp="2024-01-01"),
        signed() | {"flwr-timestamp": b"\xff"},
        signed() | {"flwr-signature": b"!"},
        signed() | {"Flwr-Public-Key": b64encode(b"not a key")},
        signed() | {"Flwr-Public-Key": b"A" * 10**6},
        signed() | {"flwr-timestamp": b"2" * 10**6},
    ],
    ids=["none", "stranger", "forged", "old", "naive", "no text", "no base64", "no key", "long key", "long stamp"],
)
def test_without_the_signature_of_a_known_key_no_byte_is_read(head):
    assert posted(head, [PART] * 600) == (401, 0, False)


@pytest.mark.parametrize("length", [b"600000000", b"99999999999999999999", b"-1", b"1e9", b""])
def test_a_body_that_says_it_is_too_large_is_not_read(length):
    assert posted(signed() | {"content-length": length}, [PART] * 600) == (413, 0, False)


def test_a_body_that_does_not_say_so_is_read_up_to_the_limit():
    status, read, reached = posted(signed(), [PART] * 600)
    assert (status, reached) == (413, False)
    assert read == MOST_BODY + 2**20
    assert posted({}, [PART] * 600, knows=False)[0] == 413, "also where every key is let in"


# Apps


def archive(files, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as written:
        for name, content in files.items():
            written.writestr(name, content)
    return file.getvalue()


def test_our_app_is_read():
    from flwr.cli.build import build_fab_from_files

    content, _ = build_fab_from_files({"pyproject.toml": app_project("rounds = 3\n").encode()})
    assert app_config(content)["tool"]["flwr"]["app"]["config"] == {"rounds": 3}
    assert _wrong_app(content) is None
    assert _settings_of_app(lambda content, run: {"rounds": run})(content, 4) == {"rounds": 4}


LARGE = b"#" * (300 * 2**20)
BOMB = archive({"pyproject.toml": LARGE})


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB, f"has {len(LARGE)} bytes, expected at most {MOST_FILE}"),
        (b"x" * (MOST_ARCHIVE + 1), "expected at most"),
        (b"", "cannot be read: BadZipFile"),
        (b"PK\x03\x04junk", "cannot be read: BadZipFile"),
        (BOMB[:-30], "cannot be read"),
        (archive({"other": b""}), "cannot be read: KeyError"),
        (archive({"pyproject.toml": b"["}), "cannot be read: ValueError"),
        (archive({"pyproject.toml": b"\xff"}), "cannot be read: UnicodeDecodeError"),
        (archive({"pyproject.toml": b"a = " + b"[" * 100_000}), "cannot be read"),
        (archive({"pyproject.toml": b"a = 1"}), "cannot be read"),
    ],
    ids=["bomb", "large", "empty", "junk", "torn", "other file", "no toml", "no text", "nested", "no app"],
)
def test_an_invalid_app_is_refused_with_the_reason(content, reason):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BundleError, match=reason):
        app_config(content)
    assert reason in _wrong_app(content)
    used = []
    settings = _settings_of_app(lambda *of: used.append(of) or {})(content, "run")
    assert settings == {}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024


@pytest.mark.parametrize("sends", [1, 0])
def test_a_body_that_trickles_is_read_no_further(sends):
    """A known client that sends a byte now and then, or nothing more, cannot hold a connection forever."""
    sent, received = [], []

    async def receive():
        await asyncio.sleep(0.02 if sends else 60)
        received.append(1)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message):
        sent.append(message)

    async def link(scope, receive, send):
        while (await receive())["more_body"]:
            pass

    guard = BoundedBodies(link, None, seconds=0.3)
    scope = {"type": "http", "path": "/v1/fleet/push-object", "headers": [(b"content-length", b"1000000")]}
    asyncio.run(asyncio.wait_for(guard(scope, receive, send), 10))
    assert sent[0]["status"] == 408
    assert len(received) <= 20


def test_after_a_whole_body_an_answer_may_take_its_time():
    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    sent = []

    async def send(message):
        sent.append(message)

    async def link(scope, receive, send):
        await receive()
        await asyncio.sleep(0.3)
        await receive()  # to see whether the client is still connected
        await send({"type": "http.response.start", "status": 200, "headers": []})

    guard = BoundedBodies(link, None, seconds=0.1)
    asyncio.run(guard({"type": "http", "path": "/v1/fleet/pull-messages", "headers": []}, receive, send))
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("first", [b"", b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_head_that_trickles_ends_its_connection(monkeypatch, first):
    monkeypatch.setattr(patience, "HEAD_SECONDS", 0.4)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def trickle():
        config = uvicorn.Config(app, port=0, http=patience.ImpatientProtocol, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        (port,) = {s.getsockname()[1] for listener in server.servers for s in listener.sockets}
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(first)
        if first:
            assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for _ in range(200):
                writer.write(b"G")
                await writer.drain()
                await asyncio.sleep(0.05)
        took = time.monotonic() - began
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()
        server.should_exit = True
        await serving
        return took

    assert asyncio.run(trickle()) < 5
