"""A federation on disk, written by ``feddat data prepare`` and read as a benchmark.

::

    DIR/prepare.json               the request, and counts of kept and dropped questions; written last
    DIR/CLIENT/client.json         task, answers and counts of one client
    DIR/CLIENT/train.jsonl ...     its questions (also validation and test), with images by key
    DIR/CLIENT/encodings/          its images and texts, encoded by the model's encoder (feddat.data.cache)

A client needs only its own folder; neither the published files nor other clients' folders are read again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from feddat.benchmarks.draw import Count, Sizes
from feddat.benchmarks.medical import MEDICAL, pin_revisions
from feddat.benchmarks.paper import FEDERATIONS
from feddat.data.cache import EncodedImage, EncodingCache, image_key
from feddat.example import SPLITS, ClientData, DataError, Example
from feddat.files import write_atomic, write_json
from feddat.models.catalog import encoder_fingerprint
from feddat.picture_settings import PictureSettings

FORMAT = "feddat-prepared-1"
MANIFEST, CLIENT = "prepare.json", "client.json"


@dataclass(frozen=True, slots=True)
class Request:
    """A request to prepare a federation.

    Attributes:
        benchmark: key of :data:`~feddat.benchmarks.paper.FEDERATIONS` or
            :data:`~feddat.benchmarks.medical.MEDICAL`; the latter keep the published splits.
        root: folder of the published datasets; ``None`` for datasets on the Hub.
        model: the model with the image processor and tokenizer to use: a bundled model's name, or a folder.
        seed: seed of the draw of questions.
        sizes: numbers of questions.
        pictures: how images are read.
        revisions: dataset on the Hub -> commit; default: the newest.
    """

    benchmark: str
    root: Path | None
    model: str
    seed: int = 0
    sizes: Sizes = field(default_factory=Sizes)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    revisions: Mapping[str, str] = field(default_factory=dict)

    @property
    def encoder(self) -> str:
        """Fingerprint of the model's encoder together with the picture settings.

        Raises:
            ModelError: there is no such model.
        """
        return self.pictures.fingerprint(encoder_fingerprint(self.model))

    def described(self) -> dict[str, Any]:
        """Return everything that determines the result, for JSON, including the files' sizes and modification times.

        Raises:
            DataError: there is no such federation, or an annotation file is missing.
            ModelError: there is no such model.
        """
        if self.benchmark in MEDICAL:
            return self._described(None, []) | {"revisions": pin_revisions(self.benchmark, self.revisions)}
        if self.benchmark not in FEDERATIONS:
            raise DataError(f"benchmark {self.benchmark!r}: expected one of {', '.join([*FEDERATIONS, *MEDICAL])}")
        if self.root is None:
            raise DataError(f"benchmark {self.benchmark}: give --root, the folder of the published datasets")
        parts = FEDERATIONS[self.benchmark].parts
        return self._described(
            str(self.root.resolve()), sorted({path for part in parts for path in part.files(self.root)})
        )

    def _described(self, root: str | None, files: list[Path]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "benchmark": self.benchmark,
            "root": root,
            "seed": self.seed,
            "sizes": asdict(self.sizes),
            "model": self.model,
            "encoder": self.encoder,
            "pictures": self.pictures.deciding(),
            "files": {str(path.resolve()): [path.stat().st_size, path.stat().st_mtime_ns] for path in files},
        }


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return ``prepare.json``, or ``None`` if there is none.

    Raises:
        DataError: the file does not have this format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content = _read_json(path)
    if content.get("request", {}).get("format") != FORMAT:
        raise DataError(f"{path}: expected the format {FORMAT}; prepare the data again")
    return content


def is_prepared(folder: Path, request: Request) -> bool:
    """Return whether a folder is completely prepared for ``request``, without missing or truncated files.

    Raises:
        DataError: an annotation file is missing, or ``prepare.json`` does not have this format.
        ModelError: there is no such model.
    """
    described = request.described()
    manifest = read_manifest(folder)
    if manifest is None or not manifest["complete"] or manifest["request"] != described:
        return False
    return not damaged_files(folder, manifest)


def list_files(folder: Path, clients: Iterable[str]) -> dict[str, int]:
    """Return the size in bytes of each file of the clients, by its path below ``folder``."""
    paths = sorted(path for client in clients for path in (folder / client).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def damaged_files(folder: Path, manifest: Mapping[str, Any]) -> list[Path]:
    """Return the files that are missing or have changed their size since they were written."""
    sizes = list_files(folder, manifest["clients"])
    return [folder / name for name, size in manifest["files"].items() if sizes.get(name) != size]


def load_prepared(folder: Path) -> tuple[dict[str, Any], tuple[ClientData, ...]]:
    """Return the contents of ``prepare.json`` and the clients; their images are views of files.

    Raises:
        DataError: the folder is not completely prepared, or damaged; the message names the file.
    """
    manifest = read_manifest(folder)
    if manifest is None or not manifest["complete"]:
        raise DataError(f"{folder}: `feddat data prepare` has not finished this folder; run it again")
    encoder = manifest["request"]["encoder"]
    return manifest, tuple(_load_client(folder / name, name, encoder) for name in manifest["clients"])


def write_client(folder: Path, data: ClientData, counts: Mapping[str, Count]) -> dict[str, Any]:
    """Write one client's questions, and return the contents of ``client.json``.

    Pictures from an archive are written below ``pictures/``, each once.

    Raises:
        DataError: an image is not in a file, or its file is missing.
        OSError: a file cannot be written.
    """
    about = {
        "task": data.task,
        "answers": data.answers,
        "description": data.description,
        "counts": {split: asdict(count) for split, count in counts.items()},
    }
    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    records = {split: [_record(example, pictures) for example in data.split(split)] for split in SPLITS}
    write_records(folder, records, about)
    return about


def write_records(folder: Path, records: Mapping[str, list[dict[str, Any]]], about: Mapping[str, Any]) -> None:
    """Write the records of a client's splits, then ``client.json``, which marks them as complete.

    Raises:
        OSError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records[split]]
        write_atomic(folder / f"{split}.jsonl", "".join(lines).encode())
    write_json(folder / CLIENT, about)


def read_records(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a client's splits.

    Raises:
        DataError: a file is missing or malformed.
    """
    records = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        try:
            # Only a line feed ends a line: splitlines() would also split at U+2028, which may be in a question.
            records[split] = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); prepare the data again") from None
    return records


def read_about(folder: Path) -> dict[str, Any] | None:
    """Return ``client.json``, or ``None`` if the client's questions are not written yet."""
    path = folder / CLIENT
    return _read_json(path) if path.is_file() else None


def source_example(record: Mapping[str, Any]) -> Example:
    """Return the example of a record, with the original files as its images."""
    return _example(record, tuple(Path(image["file"]) for image in record["images"]))


def encodings_folder(folder: Path) -> Path:
    """Return the folder of a client's encoded images and texts."""
    return folder / "encodings"


def _record(example: Example, pictures: Path) -> dict[str, Any]:
    images = []
    for image in example.images:
        key = image_key(image).hex()
        if isinstance(image, bytes):
            if not (path := pictures / key).is_file():
                write_atomic(path, image)
            image = path
        if not isinstance(image, Path):
            raise DataError(f"example {example.id}: expected images in files")
        images.append({"key": key, "file": str(image.absolute())})
    return {
        "id": example.id,
        "images": images,
        "text": example.text,
        "answers": dict(example.answers),
        "choices": list(example.choices),
        "label": example.label,
        "meta": dict(example.meta),
    }


def _example(record: Mapping[str, Any], images: tuple[Any, ...]) -> Example:
    return Example(
        record["id"],
        images,
        record["text"],
        record["answers"],
        tuple(record["choices"]),
        record["label"],
        record["meta"],
    )


def _load_client(folder: Path, name: str, encoder: str) -> ClientData:
    about = read_about(folder)
    if about is None:
        raise DataError(f"{folder / 'client.json'}: no such file; prepare the data again")
    cache = EncodingCache(encodings_folder(folder), encoder)
    splits: dict[str, tuple[Example, ...]] = {}
    for split, records in read_records(folder).items():
        examples = []
        for record in records:
            keys = [bytes.fromhex(image["key"]) for image in record["images"]]
            if not all(key in cache.images for key in keys):
                raise DataError(
                    f"client {name}, {split}: an image of question {record['id']} is not in {cache.images.folder}; "
                    "prepare the data again"
                )
            images = tuple(EncodedImage.of(cache.images[key], encoder) for key in keys)
            examples.append(_example(record, images))
        splits[split] = tuple(examples)
    return ClientData(
        name,
        about["task"],
        splits["train"],
        splits["validation"],
        splits["test"],
        tuple(about["answers"]),
        about["description"],
        encodings_folder(folder),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content
