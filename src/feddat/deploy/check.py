"""Check on a client's machine, before starting anything, what it still lacks to take part."""

from __future__ import annotations

import json
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cache, partial
from pathlib import Path

import httpx

from feddat.config import PolicyConfig
from feddat.deploy import pki
from feddat.example import SPLITS, ClientData, DataError, image_identity
from feddat.site import SiteConfig, read_site

#: Flower refuses messages from a node whose clock is this many seconds ahead of the server's, or behind it.
AHEAD_SECONDS, BEHIND_SECONDS = 5, 300
TIMEOUT = 10.0


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        what: what was checked.
        good: whether it is as it must be.
        found: what was found, in one line.
    """

    what: str
    good: bool
    found: str


def check_client(
    folder: Path, quick: bool = False, progress: Callable[[int, int], None] = lambda done, total: None
) -> Iterator[Finding]:
    """Check everything in a client's folder and everything it refers to; yield the findings in order.

    Args:
        folder: folder of the client.
        quick: read only the first picture of each split, not all.
        progress: called with the number of pictures read and of all.

    Raises:
        ConfigError: there is no usable client.yaml, so nothing else can be checked.
    """
    site = read_site(folder / "client.yaml")
    yield Finding("client.yaml", True, f"client {site.client}")
    yield _looked("keys", lambda: _keys(folder))
    read = cache(partial(_read, site))  # at once for both checks
    yield _looked("data", lambda: _data(read()))
    yield _looked("pictures", lambda: _pictures(read(), quick, progress))
    yield _looked("policy", lambda: _policy(site.policy, read()))
    yield _looked("model", lambda: _model(site, folder))
    yield _looked("state", lambda: _state(site))
    yield _looked("authority", lambda: _authority(folder))
    if site.server is None:
        yield Finding("server", False, "client.yaml names no server (server: HOST:PORT)")
        return
    yield from check_server(folder, site.server)


def check_server(folder: Path, server: str) -> Iterator[Finding]:
    """Check the connection from a client's machine to the server, and its clock; yield the findings.

    Args:
        folder: folder of the client, with the authority's certificate.
        server: ``HOST:PORT``.
    """
    host, _, port = server.rpartition(":")
    yield _looked("server", lambda: _server(folder, host, int(port)))
    yield _looked("clock", lambda: _clock(folder, server))


def _looked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except (OSError, ValueError, RuntimeError) as error:
        return Finding(what, False, " ".join(str(error).split()))


def _keys(folder: Path) -> str:
    pki.check_key_pair(folder / "node.key", folder / "node.pub")
    if (folder / "node.key").stat().st_mode & 0o077:
        raise ValueError(f"{folder / 'node.key'}: others on this machine can read it (chmod 600)")
    return "node.key and node.pub fit"


def _read(site: SiteConfig) -> ClientData:
    from feddat.data.readers import read_client

    return read_client(site.client, dict(site.data))


def _data(data: ClientData) -> str:
    from feddat.client.data_notes import unanswerable

    sizes = {split: data.split(split) for split in SPLITS}
    for split, examples in sizes.items():
        if split != "validation" and not examples:
            raise ValueError(f"split {split} is empty")
    lacking = unanswerable(data, "test")
    note = f"; {lacking} of test cannot be answered with the answers of train" if lacking else ""
    counts = ", ".join(f"{split} {len(examples)}" for split, examples in sizes.items())
    return f"{counts} examples, task {data.task}{note}"


def _pictures(data: ClientData, quick: bool, progress: Callable[[int, int], None]) -> str:
    from feddat.pictures import PictureReader

    reader, bad = PictureReader(data.pictures), list[str]()
    examples = [example for split in SPLITS for example in data.split(split)[: 1 if quick else None]]
    images = list({image_identity(image): image for example in examples for image in example.images}.values())
    for done, image in enumerate(images, start=1):
        try:
            reader.read(image)
        except DataError as error:
            bad.append(str(error))
        progress(done, len(images))
    if bad:
        raise ValueError(f"{len(bad)} of {len(images)} cannot be read; the first: {bad[0]}")
    return f"{len(images)} read" + (", the first of each split; leave out --quick to read all" if quick else "")


def _policy(policy: PolicyConfig, data: ClientData) -> str:
    """Check that a client has enough data for its own policy's limits on updates and scores."""
    needs = {"train": policy.min_examples, **dict.fromkeys(policy.score_splits, policy.min_questions)}
    caps = {"train": policy.train_examples, "validation": policy.validation_examples, "test": policy.test_examples}
    for split, least in needs.items():
        count = min(len(data.split(split)), caps[split] or sys.maxsize)
        if 0 < count < least:
            key = "min_examples" if split == "train" else "min_questions"
            raise ValueError(f"split {split} has {count} examples, but policy.{key} is {least}; runs will be refused")
    runs = "asks before each run" if policy.approval == "ask" else "pins the settings that a run begins with"
    return f"{runs}; updates of at least {policy.min_examples} examples, scores of at least {policy.min_questions}"


def _model(site: SiteConfig, folder: Path) -> str:
    from feddat.experiment.single.foundation import model_hashes

    expected = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    name = site.model if site.model is not None else expected["model"]
    found = model_hashes(name)
    for part, value in found.items():
        if part not in expected:
            return f"{name}; not compared, since `feddat deploy init` was given no model"
        if expected[part] != value:
            raise ValueError(f"{name}: {part} {value}, but the consortium's is {expected[part]}")
    return f"{name} is the consortium's model ({', '.join(f'{part} {value}' for part, value in found.items())})"


def _state(site: SiteConfig) -> str:
    site.state.mkdir(parents=True, exist_ok=True)
    probe = site.state / ".check"
    probe.write_bytes(b"")
    probe.unlink()
    return f"{site.state} can be written"


def _authority(folder: Path) -> str:
    authority = pki.read_certificate(folder / "ca.crt")
    pki.check_certificate(authority, authority, str(folder / "ca.crt"))
    return f"good until {authority.not_valid_after_utc:%Y-%m-%d}"


def _server(folder: Path, host: str, port: int) -> str:
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    try:
        with (
            socket.create_connection((host, port), TIMEOUT) as connection,
            context.wrap_socket(connection, server_hostname=host) as secured,
        ):
            found = secured.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise ValueError(f"{host}:{port}: its certificate is refused: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise ValueError(f"{host}:{port}: no TLS there: {error.reason}") from None
    except OSError as error:
        raise ValueError(f"{host}:{port}: not reachable: {error.strerror or error}") from None
    return f"{host}:{port} answers; its certificate is good until {found.get('notAfter')}"


def _clock(folder: Path, server: str) -> str:
    verify = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    try:
        answer = httpx.get(f"https://{server}/health", verify=verify, timeout=TIMEOUT)
    except httpx.HTTPError as error:
        raise ValueError(f"the server's clock cannot be read: {error}") from None
    ahead = (datetime.now(UTC) - parsedate_to_datetime(answer.headers["date"])).total_seconds()
    if not -BEHIND_SECONDS < ahead < AHEAD_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        raise ValueError(f"{abs(ahead):.0f} s {way} the server's, which will refuse this node; set the clock (NTP)")
    return f"within {abs(ahead) + 1:.0f} s of the server's"
