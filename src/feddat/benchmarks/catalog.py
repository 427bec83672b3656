"""Federations by name: the mini, paper and medical ones, and those that ``feddat data prepare`` wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feddat.benchmarks.draw import TEST_EXAMPLES, TRAIN_EXAMPLES, Sizes, draw_client
from feddat.benchmarks.medical import MEDICAL, Revisions, load_medical
from feddat.benchmarks.mini import MINI
from feddat.benchmarks.paper import FEDERATIONS
from feddat.benchmarks.prepared import MANIFEST, load_prepared, read_manifest
from feddat.example import ClientData

#: Examples per client and split if the configuration does not set them.
DEFAULT_SIZES: dict[str, int] = {"train": 400, "validation": 150, "test": 300}


@dataclass(frozen=True, slots=True)
class About:
    """A federation in words.

    Attributes:
        description: one-line description.
        shared: what is new to the foundation model and common to all clients.
        differs: what differs between the clients.
    """

    description: str
    shared: str
    differs: str


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A named federation.

    Attributes:
        name: key of the catalog, or a prepared folder.
        clients: the data of the clients.
    """

    name: str
    clients: tuple[ClientData, ...]


class BenchmarkError(ValueError):
    """There is no such benchmark, or its folder is not given; the message says what is expected."""


def list_benchmarks() -> dict[str, str]:
    """Return name -> one-line description."""
    return {name: about.description for name, about in _ABOUT.items()}


def about_benchmark(name: str) -> About:
    """Return a federation in words, without loading its data.

    Args:
        name: key of the catalog, or a folder that ``feddat data prepare`` wrote.

    Raises:
        BenchmarkError: unknown name.
        DataError: the folder's file is malformed.
    """
    if name not in _ABOUT and (manifest := read_manifest(Path(name))) is not None:
        name = manifest["request"]["benchmark"]
    if name not in _ABOUT:
        raise _unknown(name)
    return _ABOUT[name]


def is_generated(name: str) -> bool:
    """Return whether a benchmark's clients have as many examples as the settings ask for."""
    return name in MINI


def load_benchmark(
    name: str,
    seed: int = 0,
    train_examples: int | None = None,
    test_examples: int | None = None,
    root: Path | None = None,
    validation_examples: int | None = None,
    outside: bool = False,
    revisions: Revisions | None = None,
) -> Benchmark:
    """Return a federation: generated, drawn from published datasets, fetched from the Hub, or read from a folder.

    The same arguments give the same examples.

    Args:
        name: key of the catalog, or a folder that ``feddat data prepare`` wrote.
        seed: seed of the data; a prepared folder has its own seed.
        train_examples: training examples per client; a prepared folder is always read completely.
        test_examples: test examples per client; a prepared folder is always read completely.
        root: ``paper/*``: folder of the published datasets, or of prepared ones (``domain``, ``scene``, ...).
        validation_examples: ``mini/*``: validation examples per client; default: half the number of test examples.
        outside: ``paper/*``: allow records that name images outside the datasets' own folders.
        revisions: ``medical/*``: dataset on the Hub -> commit; default: the newest. These federations are always read
            completely.

    Raises:
        BenchmarkError: unknown name, or ``root`` is missing.
        DataError: a file is missing or malformed.
    """
    if name in MINI:
        entry = MINI[name]
        test = test_examples or DEFAULT_SIZES["test"]
        sizes = {
            "train": train_examples or DEFAULT_SIZES["train"],
            "validation": validation_examples or max(1, test // 2),
            "test": test,
        }
        return Benchmark(name, entry.clients(sizes, seed))
    if name in MEDICAL:
        if root is not None and (root / name.replace("/", "-") / MANIFEST).is_file():
            return Benchmark(name, load_prepared(root / name.replace("/", "-"))[1])
        return Benchmark(name, load_medical(name, seed, revisions=revisions))
    if name in FEDERATIONS:
        if root is None:
            raise BenchmarkError(
                f"benchmark {name}: give root=DIR, the folder of the published datasets, or prepare them once with "
                "`feddat data prepare` and give the prepared folder"
            )
        ready = root / name.removeprefix("paper/")
        if (ready / MANIFEST).is_file():
            return Benchmark(name, load_prepared(ready)[1])
        wanted = Sizes(train_examples or TRAIN_EXAMPLES, test_examples or TEST_EXAMPLES)
        clients = tuple(draw_client(part, root, seed, wanted, outside=outside)[0] for part in FEDERATIONS[name].parts)
        return Benchmark(name, clients)
    if Path(name).is_dir():
        return Benchmark(name, load_prepared(Path(name))[1])
    raise _unknown(name)


def _unknown(name: str) -> BenchmarkError:
    return BenchmarkError(f"unknown benchmark {name!r}; known: {', '.join(list_benchmarks())}, or a prepared folder")


_ABOUT: Mapping[str, About] = {
    **{name: About(entry.description, entry.shared, entry.differs) for name, entry in MINI.items()},
    **{name: About(entry.description, entry.shared, entry.differs) for name, entry in FEDERATIONS.items()},
    **{name: About(entry.description, entry.shared, entry.differs) for name, entry in MEDICAL.items()},
}
