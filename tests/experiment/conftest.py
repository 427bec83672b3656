"""Fixtures of whole runs: two clients with their own files, a tiny ViLT, and a local stand-in for the Hub."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from feddat.benchmarks.medical import DATASETS
from feddat.models.named import named_folder
from hub_server import Asked, HubServer
from two_clients import COLOURS, SIZES, quick_config, write_world

#: Repositories that tests request although the stand-in does not have them.
MISSING = {"a/b", "dandelin/vilt-b32-mlm", *(dataset.repository for dataset in DATASETS.values())}
#: Headers that requests to the Hub may have. The library gives each request a random number, so that the Hub can trace
#: failures, and marks requests that belong to a download.
ALLOWED = {
    *("host", "accept", "accept-encoding", "connection", "user-agent", "range", "authorization"),
    *("x-amzn-trace-id", "x-hf-download-counter"),
}


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A folder with a model and the files of two clients, ``ann`` and ``bob``."""

    def draw(generator: np.random.Generator, i: int) -> tuple[NDArray[np.uint8], str]:
        answer = list(COLOURS)[i % 3]
        return np.clip(generator.normal(COLOURS[answer], 40, (32, 32, 3)), 0, 255).astype(np.uint8), answer

    return write_world(tmp_path_factory.mktemp("world"), SIZES, draw)


@pytest.fixture
def make_config(world, tmp_path):
    """Return a function that makes settings of a quick run; keyword values (dots as ``__``) override the defaults."""
    torch.set_num_threads(1)

    return partial(quick_config, world, runs_dir=tmp_path / "runs")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on the loopback address without repositories, and an empty cache; all requests are checked at the end."""
    for key in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HUGGING_FACE_HUB_TOKEN", "HF_HOME"):
        monkeypatch.delenv(key, raising=False)
    named_folder.cache_clear()
    with HubServer().running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        for one in server.asked:
            _holds_names_and_versions_alone(one, server)
    named_folder.cache_clear()


def _holds_names_and_versions_alone(one: Asked, server: HubServer) -> None:
    """Check that a request tells the Hub only who asks, and for which repository, revision and file."""
    assert one.method in ("GET", "HEAD") and not one.body
    known = {f"/{kind}s/{name}" if kind == "dataset" else f"/{name}" for kind, name in server.repos}
    known |= {f"/api/{kind}s/{name}" for kind, name in server.repos} | {f"/cdn/{sha}" for sha in server.blobs}
    tried = r"/nowhere|/(api/(models|datasets)/|datasets/)?(\S+)"
    if not one.path.startswith(tuple(known)):  # a missing repository: only its name
        found = re.fullmatch(tried, one.path)
        assert found is not None and found[3] in (None, *MISSING), one.path
    assert one.query.lower() in ("", "blobs=true", "recursive=true&expand=false") or "discussions" in one.path
    assert one.headers.keys() <= ALLOWED
    assert one.headers.get("x-hf-download-counter", "1") == "1"
    agent = [part.partition("/")[0] for part in one.headers["user-agent"].split("; ")]
    assert agent in (["feddat", "hf_hub", "python"], ["feddat"])
