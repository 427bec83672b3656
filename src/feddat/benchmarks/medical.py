"""Federations of public medical question answering, by name; their datasets are fetched from the Hub.

Clients keep the published splits. Without a published validation split, a tenth of the training images is held out with
all questions about them, so no image is on both sides. Without a published test split, a fifth of the images is used
for testing. A client's answers are the most frequent answers to its training questions. Test questions that these
answers cannot answer still count and score 0, as in papers on these datasets. Open and closed questions are
distinguished (:mod:`feddat.data.readers.medical`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from feddat.benchmarks.draw import Count
from feddat.benchmarks.sites import split_sites
from feddat.data.cache import image_key
from feddat.data.readers import hf, slake
from feddat.data.readers.hub_data import WANTED, fetch_files, fetch_shards, pin_dataset
from feddat.data.readers.medical import KIND, answer_kind
from feddat.data.readers.own import HELD_OUT, top_answers
from feddat.data.readers.published import FormatSource
from feddat.example import SPLITS, ClientData, DataError, Example, Image
from feddat.hub import Address
from feddat.seeding import derive

#: Name of a dataset on the Hub -> the commit to read.
Revisions: TypeAlias = Mapping[str, str]
#: Default size of a client's answer list, which covers nearly all answers of VQA-RAD and SLAKE.
TOP_ANSWERS = 500
#: Share of the images used for testing if no test split is published.
TESTED = 0.2


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset on the Hub, as its card describes it.

    Attributes:
        repository: its name on the Hub.
        title: title with citation.
        licence: the licence on its card.
        megabytes: approximate size of the download.
        questions: number of questions by published split.
        splits: split of this package -> published split; missing splits are held out by image.
        columns: columns of the Parquet files on its card, name -> kind, for a test that checks the schema.
        form: ``hf`` (Parquet), or the format of another reader.
    """

    repository: str
    title: str
    licence: str
    megabytes: int
    questions: Mapping[str, int]
    splits: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)
    form: str = "hf"


DATASETS: Mapping[str, Dataset] = {
    "vqa-rad": Dataset(
        "flaviagiammarino/vqa-rad",
        "VQA-RAD: radiology (Lau et al., Scientific Data 2018)",
        "CC0-1.0",
        34,
        {"train": 1793, "test": 451},
        {"train": "train", "test": "test"},
        {"image": "image", "question": "string", "answer": "string"},
    ),
    "slake": Dataset(
        "BoKelvin/SLAKE",
        "SLAKE, English: radiology (Liu et al., ISBI 2021, arXiv 2102.09542)",
        "CC-BY-4.0",
        216,
        {"train": 4919, "validation": 1053, "test": 1061},
        {"train": "train", "validation": "validation", "test": "test"},
        form="slake",
    ),
    "pathvqa": Dataset(
        "flaviagiammarino/path-vqa",
        "PathVQA: pathology (He et al., 2020, arXiv 2003.10286)",
        "MIT; the pictures belong to the textbooks' publishers and to PEIR",
        785,
        {"train": 19654, "validation": 6259, "test": 6719},
        {"train": "train", "validation": "validation", "test": "test"},
        {"image": "image", "question": "string", "answer": "string"},
    ),
    "kvasir": Dataset(
        "SimulaMet-HOST/Kvasir-VQA",
        "Kvasir-VQA: endoscopy (Gautam et al., 2024, arXiv 2409.01437)",
        "CC-BY-NC-4.0",
        1500,
        {"raw": 58849},
        {"train": "raw"},
        {"image": "image", "source": "string", "question": "string", "answer": "string", "img_id": "string"},
    ),
}


@dataclass(frozen=True, slots=True)
class MedicalPart:
    """One client's share.

    Attributes:
        client: its name.
        dataset: key of :data:`DATASETS`.
        only: key and value in ``meta`` of the examples to keep; ``None``: keep all.
        sites: number of hospitals among which the data is divided; 1: the client is one hospital.
    """

    client: str
    dataset: str
    only: tuple[str, str] | None = None
    sites: int = 1

    def published(self) -> Dataset:
        """Return the dataset."""
        return DATASETS[self.dataset]


@dataclass(frozen=True, slots=True)
class MedicalFederation:
    """One federation.

    Attributes:
        description: one-line description.
        shared: what is new to the foundation model and common to all clients.
        differs: what differs between the clients.
        parts: the clients' shares of the datasets.
    """

    description: str
    shared: str
    differs: str
    parts: tuple[MedicalPart, ...]

    def datasets(self) -> dict[str, Dataset]:
        """Return the datasets by name, each once."""
        return {part.dataset: part.published() for part in self.parts}


_MODALITIES = {"xray": "X-Ray", "ct": "CT", "mri": "MRI"}
MEDICAL: Mapping[str, MedicalFederation] = {
    "medical/vqa": MedicalFederation(
        "four medical datasets, one client each: VQA-RAD, SLAKE (English), PathVQA, Kvasir-VQA",
        "medical pictures and words",
        "organ and modality, who asks and how, answers",
        tuple(MedicalPart(name, name) for name in ("vqa-rad", "slake", "pathvqa", "kvasir")),
    ),
    "medical/small": MedicalFederation(
        "the three medical datasets that are quickest to download: VQA-RAD, SLAKE (English), PathVQA",
        "medical pictures and words",
        "organ and modality, who asks and how, answers",
        tuple(MedicalPart(name, name) for name in ("vqa-rad", "slake", "pathvqa")),
    ),
    "medical/modality": MedicalFederation(
        "questions by modality: X-ray, CT and MRI of SLAKE (English), histology of PathVQA",
        "medical pictures and words",
        "the modality of the pictures",
        (
            *(MedicalPart(name, "slake", ("modality", value)) for name, value in _MODALITIES.items()),
            MedicalPart("histology", "pathvqa"),
        ),
    ),
    "medical/sites": MedicalFederation(
        "SLAKE (English) over five hospitals that differ in body parts (Dirichlet, 0.5) and in size",
        "one dataset: the same pictures, words and style of question",
        "which body parts a hospital sees, and how many patients",
        (MedicalPart("hospital", "slake", sites=5),),
    ),
}


def pin_revisions(name: str, given: Revisions | None = None) -> dict[str, str]:
    """Return the given or current commits of a federation's datasets, by their names on the Hub.

    Raises:
        DataError: a dataset is not available.
    """
    known = given or {}
    found = {}
    for dataset in MEDICAL[name].datasets().values():
        repository = dataset.repository
        commit = known.get(repository) or pin_dataset(Address("dataset", repository), dataset.form).revision
        assert commit is not None
        found[repository] = commit
    return found


def fetch_dataset(dataset: Dataset) -> tuple[Path, Address]:
    """Fetch a dataset; return the folder of its files, and its address with the commit.

    Raises:
        DataError: the dataset is not available.
    """
    address = pin_dataset(Address("dataset", dataset.repository), dataset.form)
    return _Reader(dataset, address.revision, False).root, address


def questions(name: str, train_examples: int | None, test_examples: int | None) -> tuple[int, int]:
    """Return the approximate numbers of training and test questions of a federation, from its datasets' cards."""
    train = test = 0
    for part in MEDICAL[name].parts:
        published = part.published()
        whole = published.questions[published.splits["train"]]
        tests = published.questions.get("test", round(TESTED * whole))
        train += min(whole, (train_examples or whole) * part.sites)
        test += min(tests, (test_examples or tests) * part.sites)
    return train, test


def load_medical(name: str, seed: int = 0, revisions: Revisions | None = None) -> tuple[ClientData, ...]:
    """Fetch a federation's datasets unless they are in the cache, and return its clients.

    Raises:
        DataError: a dataset is not available or cannot be used.
    """
    parts = MEDICAL[name].parts
    return tuple(data for part in parts for data, _ in draw_part(part, seed, TOP_ANSWERS, revisions or {}))


def draw_part(
    part: MedicalPart, seed: int, answers: int, revisions: Revisions, skip_missing: bool = False
) -> list[tuple[ClientData, dict[str, Count]]]:
    """Return the clients of a part, with counts of their questions by split.

    Raises:
        DataError: the dataset is not available or cannot be used, or a split of a client is empty.
    """
    dataset = part.published()
    reader = _Reader(dataset, revisions.get(dataset.repository), skip_missing)
    splits = {split: tuple(_chosen(reader.read(split, seed), part.only)) for split in SPLITS}
    whole = ClientData(part.client, "vqa", splits["train"], splits["validation"], splits["test"], (), dataset.title)
    clients = [whole] if part.sites == 1 else split_sites(whole, part.sites, seed, "location")
    return [_with_answers(client, answers, reader.skipped) for client in clients]


class _Reader:
    """Reads the splits of a dataset on the Hub, including held-out ones."""

    def __init__(self, dataset: Dataset, commit: str | None, skip_missing: bool) -> None:
        self._dataset = dataset
        self._skip_missing = skip_missing
        self.skipped: dict[str, dict[str, int]] = {}
        address = Address("dataset", dataset.repository, commit)
        published = tuple(dict.fromkeys(dataset.splits.values()))
        if dataset.form == "hf":
            shards = fetch_shards(address, published)
            self.root = next(iter(shards.values()))[0].parent
            self.source = FormatSource("hf", "vqa", dataset.title, published, hf.Rows({}, shards))
        else:
            self.root = fetch_files(address, WANTED[dataset.form])
            self.source = FormatSource(dataset.form, "vqa", dataset.title, published, slake)

    def read(self, split: str, seed: int) -> Iterator[Example]:
        """Yield the examples of a client's split."""
        given = self._dataset.splits
        published = given.get(split, given["train"])
        counts: Counter[str] = Counter()
        for example in self.source.read(self.root, published, skip_missing=self._skip_missing, skipped=counts):
            if (split in given and split != "train") or self._home(example, seed) == split:
                yield _with_kind(example)
        self.skipped[split] = dict(counts)

    def _home(self, example: Example, seed: int) -> str:
        """Return the split of a published training example; all examples about an image share a split."""
        given = self._dataset.splits
        if "test" not in given and _share("test", example.images[0]) < TESTED:
            return "test"
        if "validation" not in given and _share(f"validation {seed}", example.images[0]) < HELD_OUT:
            return "validation"
        return "train"


def _share(purpose: str, image: Image) -> float:
    """Return a number in [0, 1) derived from an image's content, or from the last two parts of its path."""
    if isinstance(image, Path):
        name = "/".join(image.parts[-2:])
        return derive(0, "medical", purpose, name) / 2**63
    return derive(0, "medical", purpose, hashlib.blake2b(image_key(image), digest_size=8).hexdigest()) / 2**63


def _chosen(examples: Iterable[Example], only: tuple[str, str] | None) -> Iterator[Example]:
    wanted: Callable[[Example], bool] = (
        (lambda example: True) if only is None else lambda example: example.meta.get(only[0]) == only[1]
    )
    return filter(wanted, examples)


def _with_kind(example: Example) -> Example:
    """Return the example with the kind of its question, open or closed, in ``meta``."""
    if KIND in example.meta:
        return example
    answer = max(example.answers, key=lambda one: example.answers[one])
    return replace(example, meta={**example.meta, KIND: answer_kind(None, answer)})


def _with_answers(
    client: ClientData, answers: int, skipped: Mapping[str, Mapping[str, int]]
) -> tuple[ClientData, dict[str, Count]]:
    """Return a client with its answer list and without training questions that the list cannot answer, and counts."""
    known = top_answers(client.train, answers)
    counts = {}
    for split in SPLITS:
        examples = client.split(split)
        if not examples:
            raise DataError(f"client {client.name}: has no {split} questions")
        outside = sum(set(known).isdisjoint(example.answers) for example in examples)
        kept = len(examples) - (outside if split == "train" else 0)
        counts[split] = Count(len(examples), outside, kept, 0, kept, dict(skipped.get(split, {})))
    train = tuple(example for example in client.train if not set(known).isdisjoint(example.answers))
    return replace(client, train=train, answers=known), counts
