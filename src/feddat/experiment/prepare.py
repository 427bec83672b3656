"""Prepare a federation on disk from published files: sample each client's questions, then encode images and texts.

Files are small and written atomically, so that preparation can be killed at any moment and continue later. A client's
questions are sampled only once, and images in a written shard are not decoded again. Worker processes encode the images
and hold one shard at a time each.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feddat.benchmarks.draw import Count, draw_client
from feddat.benchmarks.medical import MEDICAL, MedicalPart, draw_part
from feddat.benchmarks.paper import FEDERATIONS, Part
from feddat.benchmarks.prepared import (
    CLIENT,
    MANIFEST,
    Request,
    damaged_files,
    encodings_folder,
    list_files,
    read_about,
    read_manifest,
    read_records,
    source_example,
    write_client,
    write_records,
)
from feddat.data.cache import EncodingCache, image_folder, shards, text_folder, text_key, write_shard
from feddat.example import ClientData, DataError
from feddat.experiment.single.events import Progress
from feddat.experiment.single.folder import ExperimentError, disk_errors, exclusive
from feddat.files import write_json
from feddat.models.base import Encoder
from feddat.models.catalog import load_encoder
from feddat.models.encoding import encode_image
from feddat.picture_settings import PictureSettings
from feddat.pictures import Note, PictureReader
from feddat.pictures.notes import told
from feddat.tasks import make_task
from feddat.workers import cores, run_parallel

log = logging.getLogger(__name__)

#: Number of images that a worker encodes in the time that it needs to load its libraries.
IMAGES_PER_WORKER = 500


def prepare(
    request: Request,
    folder: Path,
    jobs: int | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda event: None,
) -> dict[str, Any]:
    """Prepare a federation in ``folder``, or continue to, and return the content of its ``prepare.json``.

    Args:
        request: federation to prepare.
        folder: folder to prepare it in.
        jobs: number of worker processes that decode images; default: one per core.
        skip_bad: leave out questions whose image is missing or cannot be decoded, instead of raising an error.
        overwrite: first remove what was prepared in the folder before.
        progress: receives ``reading`` with a ``client`` before its questions are sampled, then ``images`` with a
            ``client`` and the numbers of images ``done`` and in ``total``.

    Raises:
        DataError: a source file or an image is missing or unusable; the message names it.
        ModelError: the model cannot be used.
        ExperimentError: the folder contains something else or is in use, or a file cannot be written.
    """
    described = request.described()
    with exclusive(folder, f"{folder}: another process is preparing it"), disk_errors(folder):
        manifest = _begin(folder, described, overwrite)
        if manifest["complete"]:
            return manifest
        work = {}
        for name, draw in _draws(request, described, folder, skip_bad).items():
            progress({"event": "reading", "client": name})
            for client in draw():
                work[client] = _pending(client, request, folder, skip_bad)
        unreadable, notes = _encode(work, jobs, progress)
        for client, counts in notes.items():
            if counts:
                log.warning("client %s: pictures: %s", client, told(counts))
        clients = {client: _drop(folder / client, unreadable.get(client, [])) for client in work}
        manifest |= {"complete": True, "clients": clients, "files": list_files(folder, clients)}
        write_json(folder / MANIFEST, manifest)
        return manifest


def _begin(folder: Path, described: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """Return the folder's manifest, after making the folder one of this request."""
    entries = [entry for entry in folder.iterdir() if entry.name != ".lock"]
    manifest = read_manifest(folder)
    if manifest is None and entries:
        raise ExperimentError(f"folder {folder}: not empty and not prepared by `feddat data prepare`; choose another")
    if manifest is not None and not overwrite:
        other = manifest["request"]
        if differing := [key for key in described if described[key] != other.get(key)]:
            raise ExperimentError(
                f"folder {folder} was prepared with other settings: {', '.join(differing)} differ; replace it "
                "(--overwrite) or choose another folder"
            )
        if manifest["complete"]:
            _remove_damaged(folder, manifest)
        return manifest
    if manifest is not None:
        # Mark it incomplete first, so that a half-emptied folder is never mistaken for a prepared one.
        write_json(folder / MANIFEST, manifest | {"complete": False})
        for entry in entries:
            if entry.is_dir():
                (entry / CLIENT).unlink(missing_ok=True)
                shutil.rmtree(entry)
    manifest = {"request": described, "complete": False, "clients": {}, "files": {}}
    write_json(folder / MANIFEST, manifest)
    return manifest


def _remove_damaged(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove files that have changed since they were written, so that they are created again, shard by shard."""
    damaged = damaged_files(folder, manifest)
    for path in damaged:
        path.unlink(missing_ok=True)
        if path.suffix == ".jsonl":  # without this file, the client's questions are sampled again
            (path.parent / CLIENT).unlink(missing_ok=True)
    manifest["complete"] = not damaged


@dataclass(frozen=True, slots=True)
class _Work:
    """One task of a worker: a shard of images, or the texts of a client.

    Attributes:
        client: client of the images or texts.
        folder: folder of the client's encodings.
        model: model whose encoder to use.
        pictures: how images are read.
        images: key -> file.
        texts: texts to tokenise.
        skip_bad: continue after an unusable image.
    """

    client: str
    folder: Path
    model: str
    pictures: PictureSettings
    images: Mapping[bytes, Path]
    texts: tuple[str, ...]
    skip_bad: bool


def _draws(
    request: Request, described: Mapping[str, Any], folder: Path, skip_bad: bool
) -> dict[str, Callable[[], list[str]]]:
    """Return by part of the federation a function that samples and writes its clients' questions and returns names."""

    def paper(part: Part) -> list[str]:
        if read_about(folder / part.client) is None:
            assert request.root is not None
            outside = request.pictures.outside
            keep([draw_client(part, request.root, request.seed, request.sizes, skip_bad, outside)])
        return [part.client]

    def medical(part: MedicalPart) -> list[str]:
        names = [part.client] if part.sites == 1 else [f"{part.client}-{site + 1}" for site in range(part.sites)]
        if any(read_about(folder / name) is None for name in names):
            sizes = request.sizes
            keep(draw_part(part, request.seed, sizes.answers, described["revisions"], skip_bad))
        return names

    def keep(clients: Iterable[tuple[ClientData, Mapping[str, Count]]]) -> None:
        for data, counts in clients:
            write_client(folder / data.name, data, counts)

    if request.benchmark in MEDICAL:
        return {part.client: partial(medical, part) for part in MEDICAL[request.benchmark].parts}
    return {part.client: partial(paper, part) for part in FEDERATIONS[request.benchmark].parts}


def _pending(client: str, request: Request, folder: Path, skip_bad: bool) -> list[_Work]:
    """Return the remaining tasks to encode a client's questions."""
    own = folder / client
    about = read_about(own) or {}
    task = make_task(about["task"], about["answers"])
    records = [record for split in read_records(own).values() for record in split]
    cache = EncodingCache(encodings_folder(own), request.encoder)
    cache.images.tidy()
    cache.texts.tidy()
    texts = {view.text for record in records for view in task.views(source_example(record))}
    missing_texts = tuple(sorted(text for text in texts if text_key(text) not in cache.texts))
    files = {bytes.fromhex(image["key"]): Path(image["file"]) for record in records for image in record["images"]}

    def work(images: Mapping[bytes, Path], texts: tuple[str, ...] = ()) -> _Work:
        return _Work(client, cache.folder, request.model, request.pictures, images, texts, skip_bad)

    missing = shards(key for key in files if key not in cache.images)
    pending = [work({key: files[key] for key in group}) for group in missing]
    return [*pending, work({}, missing_texts)] if missing_texts else pending


def _encode(
    work: Mapping[str, list[_Work]], jobs: int | None, progress: Progress
) -> tuple[dict[str, list[bytes]], dict[str, Counter[Note]]]:
    """Encode everything; return by client the keys of unusable images, and notes on how others were read."""
    totals = {client: sum(len(item.images) for item in items) for client, items in work.items()}
    done = dict.fromkeys(totals, 0)
    for client, total in totals.items():
        progress({"event": "images", "client": client, "done": 0, "total": total})
    tasks = {f"{client} {n}": item for client, items in work.items() for n, item in enumerate(items)}
    unreadable: dict[str, list[bytes]] = {}
    notes: dict[str, Counter[Note]] = {client: Counter() for client in work}

    def advance(name: str, event: dict[str, Any]) -> None:
        item = tasks[name]
        if event["event"] == "failure":
            raise DataError(f"client {item.client}: {event['reason']}")
        unreadable.setdefault(item.client, []).extend(event["unreadable"])
        notes[item.client].update({Note(note): count for note, count in event["notes"].items()})
        if not item.images:
            return
        done[item.client] += len(item.images)
        told = {"client": item.client, "done": done[item.client], "total": totals[item.client]}
        progress({"event": "images"} | told)

    most = max(1, sum(totals.values()) // IMAGES_PER_WORKER)
    jobs = min(jobs or cores(), most)
    if jobs > 1:
        run_parallel(_encode_work, tasks, jobs, advance)
    else:
        _encode_here(tasks, advance)
    return unreadable, notes


def _encode_here(tasks: Mapping[str, _Work], advance: Callable[[str, dict[str, Any]], None]) -> None:
    """Encode the shards one by one in this process; writing a shard overlaps with encoding the next."""
    with ThreadPoolExecutor(1) as disk:
        writing: list[tuple[str, dict[str, Any], Future[None]]] = []

        def finish() -> None:
            while writing:
                name, event, written = writing.pop()
                with _naming_client(tasks[name]):
                    written.result()
                advance(name, event)

        for name, work in tasks.items():
            with _naming_client(work):
                encoded = _encoded(work)
            finish()
            writing.append((name, _event(encoded), disk.submit(_write, work, encoded)))
        finish()


@contextmanager
def _naming_client(work: _Work) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise DataError(f"client {work.client}: {error}") from None


def _encode_work(work: _Work, emit: Callable[[dict[str, Any]], None]) -> None:
    """Encode one shard in a worker process; emit one event when it is written."""
    encoded = _encoded(work)
    _write(work, encoded)
    emit(_event(encoded))


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A shard in memory: images and texts by key, the keys of unusable images, and notes on how others were read."""

    images: dict[bytes, NDArray[Any]]
    texts: dict[bytes, NDArray[Any]]
    unreadable: list[bytes]
    notes: dict[Note, int]


def _event(encoded: _Encoded) -> dict[str, Any]:
    return {"event": "encoded", "unreadable": encoded.unreadable, "notes": encoded.notes}


def _encoded(work: _Work) -> _Encoded:
    encoder, reader = _encoder(work.model), PictureReader(work.pictures)
    images: dict[bytes, NDArray[Any]] = {}
    unreadable = []
    for key, file in work.images.items():
        try:
            images[key] = encode_image(encoder, file, reader).numpy()
        except DataError:
            if not work.skip_bad:
                raise
            unreadable.append(key)
    ids = zip(work.texts, encoder.texts(work.texts) if work.texts else (), strict=True)
    texts = {text_key(text): np.array(row, np.int32) for text, row in ids}
    return _Encoded(images, texts, unreadable, dict(reader.notes.counts))


def _write(work: _Work, encoded: _Encoded) -> None:
    owner = work.pictures.fingerprint(_encoder(work.model).fingerprint)
    if encoded.images:
        write_shard(image_folder(work.folder, owner), owner, encoded.images)
    if encoded.texts:
        write_shard(text_folder(work.folder, owner), owner, encoded.texts)


@lru_cache(maxsize=1)
def _encoder(model: str) -> Encoder:
    return load_encoder(model)


def _drop(folder: Path, unreadable: Iterable[bytes]) -> dict[str, Any]:
    """Remove questions about unusable images from a client's files, and return its ``client.json``."""
    keys = {key.hex() for key in unreadable}
    about, records = read_about(folder) or {}, read_records(folder)
    for split, before in records.items():
        kept = [record for record in before if not any(image["key"] in keys for image in record["images"])]
        if not kept:
            raise DataError(
                f"client {folder.name}: no {split} question is left, since none of its images can be decoded"
            )
        counts = about["counts"][split]
        # Count from the sampled number, since an earlier attempt may have been killed after it removed some.
        counts["kept"], counts["broken"] = len(kept), counts["drawn"] - len(kept)
        records[split] = kept
    write_records(folder, records, about)
    return about
