"""The federations by name. Each has one thing that is new to the bundled model and common to its clients, and one
thing that differs between them: without the first, sharing cannot pay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feddat.benchmarks.draw import TEST_EXAMPLES, TRAIN_EXAMPLES, Sizes, draw_client
from feddat.benchmarks.paper import FEDERATIONS
from feddat.benchmarks.prepared import MANIFEST, load_prepared
from feddat.data.mini.concepts import GROUPS
from feddat.data.mini.generate import SPLITS, easy_vqa_client, mini_client
from feddat.example import ClientData

_AS_FOUND = "nothing by design: the datasets are as they were published"
#: Examples per client and split where the configuration does not say.
DEFAULT_SIZES: dict[str, int] = {"train": 400, "validation": 150, "test": 300}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A named federation.

    Attributes:
        name: key of the catalog.
        description: one line.
        shared: what is new to the foundation model and common to all clients.
        differs: what differs between the clients.
        clients: their data.
    """

    name: str
    description: str
    shared: str
    differs: str
    clients: tuple[ClientData, ...]


class BenchmarkError(ValueError):
    """No such benchmark; the message names the known ones."""


Clients = Callable[[Mapping[str, int], int], tuple[ClientData, ...]]


def _domain(sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = {"count": 0.4, "compare": 0.35, "object": 0.125, "attribute": 0.125}
    lines = {
        "sketch": "pencil outlines on paper, colours as frames",
        "night": "the world in the dark",
        "photo": "noise, blur and slanting light",
        "silhouette": "black shapes on coloured tiles",
    }
    drawn = [
        mini_client(domain, domain, sizes, seed, skills=skills, description=line) for domain, line in lines.items()
    ]
    return (
        *drawn,
        easy_vqa_client("easy-vqa", sizes, seed, "the public easy-VQA dataset: one shape on a coloured ground"),
    )


def _function(sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = ("attribute", "knowledge", "logical", "object", "relation")
    return tuple(
        mini_client(skill, "chalk", sizes, seed, skills={skill: 1.0}, description=f"{skill} questions")
        for skill in skills
    )


def _scene(sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = {"object": 0.4, "attribute": 0.2, "relation": 0.25, "logical": 0.15}
    return tuple(
        mini_client(
            group, "underwater", sizes, seed, skills=skills, group=group, description=f"scenes of {group} things"
        )
        for group in GROUPS
    )


def _task(sizes: Mapping[str, int], seed: int) -> tuple[ClientData, ...]:
    skills = {"object": 0.35, "attribute": 0.35, "relation": 0.3}
    lines = {
        "nlvr2": "a statement about two pictures: true or false",
        "snli-ve": "a statement about a partly covered picture: entailed, open or contradicted",
        "vcr": "a question with four choices",
    }
    asked = mini_client("vqa", "xray", sizes, seed, skills=skills, description="open questions")
    return (asked, *(mini_client(t, "xray", sizes, seed, task=t, description=line) for t, line in lines.items()))


@dataclass(frozen=True, slots=True)
class _Entry:
    description: str
    shared: str
    differs: str
    clients: Clients


_CATALOG: dict[str, _Entry] = {
    "mini/domain": _Entry(
        "five clients, five visual domains, mixed questions",
        "counting and comparing",
        "visual domain: sketch, night, photo, silhouette, and the public easy-VQA",
        _domain,
    ),
    "mini/function": _Entry(
        "five clients, one skill each",
        "a visual domain: chalk outlines on a blackboard",
        "the skill asked for",
        _function,
    ),
    "mini/scene": _Entry(
        "six clients, one topic group each", "a visual domain: rippled water", "the topic of the scenes", _scene
    ),
    "mini/task": _Entry(
        "four clients, four tasks with their own heads and losses",
        "a visual domain: x-ray images",
        "the task: VQA, NLVR2, SNLI-VE, VCR",
        _task,
    ),
}


def list_benchmarks() -> dict[str, str]:
    """Return name -> one-line description."""
    mini = {name: entry.description for name, entry in _CATALOG.items()}
    return mini | {name: federation.description for name, federation in FEDERATIONS.items()}


def load_benchmark(
    name: str,
    seed: int = 0,
    train_examples: int | None = None,
    test_examples: int | None = None,
    root: Path | None = None,
) -> Benchmark:
    """Generate a federation, draw it from published datasets, or read a prepared one.

    The same arguments give the same examples.

    Args:
        name: key of the catalog, or a folder that ``feddat data prepare`` wrote.
        seed: seed of the data; a prepared folder has its own.
        train_examples: training examples per client.
        test_examples: test examples per client; mini/*: validation gets half as many. A prepared folder is read whole.
        root: ``paper/*``: folder of the published datasets; or of prepared ones, called ``domain``, ``scene``, ...

    Raises:
        BenchmarkError: unknown name, or ``root`` is missing.
        DataError: a file is missing or malformed.
    """
    if name in _CATALOG:
        entry = _CATALOG[name]
        test = test_examples or DEFAULT_SIZES["test"]
        sizes = dict(zip(SPLITS, (train_examples or DEFAULT_SIZES["train"], max(1, test // 2), test), strict=True))
        return Benchmark(name, entry.description, entry.shared, entry.differs, entry.clients(sizes, seed))
    if name in FEDERATIONS:
        if root is None:
            raise BenchmarkError(
                f"benchmark {name}: give root=DIR, the folder of the published datasets, or prepare it once with "
                "`feddat data prepare` and give the prepared folder"
            )
        ready = root / name.removeprefix("paper/")
        if (ready / MANIFEST).is_file():
            return _prepared(name, ready)
        federation = FEDERATIONS[name]
        wanted = Sizes(train_examples or TRAIN_EXAMPLES, test_examples or TEST_EXAMPLES)
        clients = tuple(draw_client(part, root, seed, wanted)[0] for part in federation.parts)
        return Benchmark(name, federation.description, _AS_FOUND, federation.differs, clients)
    if Path(name).is_dir():
        return _prepared(name, Path(name))
    raise BenchmarkError(f"unknown benchmark {name!r}; known: {', '.join(list_benchmarks())}, or a prepared folder")


def _prepared(name: str, folder: Path) -> Benchmark:
    manifest, clients = load_prepared(folder)
    federation = FEDERATIONS[manifest["request"]["benchmark"]]
    return Benchmark(name, federation.description, _AS_FOUND, federation.differs, clients)
