"""Cache of encoded images and texts on disk: decoded, resized and tokenised once, then memory-mapped.

A store is a folder of *shards*. A shard is a safetensors file (https://github.com/huggingface/safetensors) with three
tensors: ``keys`` uint8 (n, 16), ``shapes`` int32 (n, dimensions) and ``data``, the values of all arrays end to end.
A shard is written under a temporary name and then renamed, so a killed process loses only the shards it was writing.
Readers skip torn and foreign files and encode their arrays again. Nothing is ever pickled.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from feddat.example import DataError, Image
from feddat.files import private_folder, whole_file

log = logging.getLogger(__name__)

FORMAT = "feddat-arrays-1"
KEY_BYTES = 16
#: dtype -> its name in the safetensors format.
_NAMES: dict[np.dtype[Any], str] = {np.dtype(np.uint8): "U8", np.dtype(np.int32): "I32"}
#: A tensor's shape and its values, in contiguous pieces.
_Pieces: TypeAlias = tuple[Sequence[int], Sequence[NDArray[Any]]]
#: Images per shard: 40 MB of 384 x 512 pixels.
SHARD_IMAGES = 64


class ArrayStore:
    """Mapping from keys to arrays of one dtype, stored in the shards of one folder.

    Args:
        folder: folder of the shards; it need not exist yet.
        owner: fingerprint of the encoder that makes the arrays; shards of other encoders are skipped.
    """

    def __init__(self, folder: Path, owner: str) -> None:
        self.folder = folder
        self.owner = owner
        self._arrays: dict[bytes, NDArray[Any]] = {}
        self._known: set[Path] = set()
        self._torn: list[Path] = []
        self.refresh()

    def __contains__(self, key: bytes) -> bool:
        """Return whether there is an array with this key."""
        return key in self._arrays

    def __getitem__(self, key: bytes) -> NDArray[Any]:
        """Return the array of a key as a view of its file; only the pages that are used are read.

        Raises:
            KeyError: there is no array with this key.
        """
        return self._arrays[key]

    def add(self, arrays: Mapping[bytes, NDArray[Any]]) -> None:
        """Write arrays as one shard.

        Raises:
            DataError: the shard cannot be written.
        """
        if arrays:
            self._read(write_shard(self.folder, self.owner, arrays))

    def tidy(self) -> None:
        """Remove torn shards and the temporary files of killed processes.

        Only the one process that writes to this folder should call this.

        Raises:
            OSError: a file cannot be removed.
        """
        for path in [*self._torn, *self.folder.glob(".*.tmp")]:
            path.unlink(missing_ok=True)
        self._torn.clear()

    def refresh(self) -> None:
        """Read the shards that were added to the folder since the last call."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._known):
            self._read(path)

    def _read(self, path: Path) -> None:
        self._known.add(path)
        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                keys, shapes = file.get_tensor("keys"), file.get_tensor("shapes")
            data = _map(path, "data")
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            log.warning("%s: incomplete or damaged shard (%s); its arrays will be encoded again", path, error)
            self._torn.append(path)
            return
        if (metadata.get("format"), metadata.get("owner")) != (FORMAT, self.owner):
            log.warning("%s: skipped; written in another format or by another encoder", path)
            return
        ends = np.cumsum(shapes.prod(axis=1, dtype=np.int64))
        for key, shape, end in zip(keys, shapes.tolist(), ends.tolist(), strict=True):
            self._arrays[key.tobytes()] = data[end - int(np.prod(shape)) : end].reshape(shape)


class EncodingCache:
    """Encoded images and texts of one owner, for one encoder.

    Attributes:
        images: key of an image -> uint8 (3, H, W).
        texts: key of a text -> token ids, int32 (L,).
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.images = ArrayStore(image_folder(folder, fingerprint), fingerprint)
        self.texts = ArrayStore(text_folder(folder, fingerprint), fingerprint)


class EncodedImage(np.ndarray[Any, np.dtype[np.uint8]]):
    """An image (H, W, 3) already at model resolution: a view of an encoder's (3, H, W) array on disk.

    Attributes:
        encoder: fingerprint of the encoder.
    """

    encoder: str = ""

    @classmethod
    def of(cls, encoded: NDArray[np.uint8], encoder: str) -> EncodedImage:
        """Return an encoder's array (3, H, W) as an image."""
        image = encoded.transpose(1, 2, 0).view(cls)
        image.encoder = encoder
        return image

    @property
    def encoded(self) -> NDArray[np.uint8]:
        """The encoder's array (3, H, W)."""
        return self.transpose(2, 0, 1).view(np.ndarray)


def image_folder(folder: Path, fingerprint: str) -> Path:
    """Return the folder of encoded images below ``folder``."""
    return folder / fingerprint / "images"


def text_folder(folder: Path, fingerprint: str) -> Path:
    """Return the folder of encoded texts below ``folder``."""
    return folder / fingerprint / "texts"


def image_key(image: Image) -> bytes:
    """Return the key of an image.

    The key is a hash: of the pixels or bytes of an image in memory; of a file's path, size and modification time.

    Raises:
        DataError: the image file cannot be found.
    """
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=KEY_BYTES).digest()
    if isinstance(image, np.ndarray):
        digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=KEY_BYTES)
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()
    try:
        state = image.stat()
    except OSError as error:
        raise DataError(f"image {image}: {error.strerror}") from None
    return _hash(f"{image.absolute()}\x1f{state.st_size}\x1f{state.st_mtime_ns}")


def text_key(text: str) -> bytes:
    """Return the key of a text."""
    return _hash(text)


def write_shard(folder: Path, owner: str, arrays: Mapping[bytes, NDArray[Any]]) -> Path:
    """Write arrays of one dtype and number of dimensions as one shard, and return its path.

    Raises:
        DataError: the shard cannot be written; no part of it remains.
    """
    name = hashlib.blake2b(b"".join(arrays), digest_size=KEY_BYTES).hexdigest()
    path = folder / f"{name}.safetensors"
    rows: list[NDArray[Any]] = [np.ascontiguousarray(array) for array in arrays.values()]
    keys = np.frombuffer(b"".join(arrays), np.uint8).reshape(-1, KEY_BYTES)
    shapes = np.array([row.shape for row in rows], np.int32)
    size = (sum(row.size for row in rows),)
    try:
        private_folder(folder)
        with whole_file(path) as temporary, temporary.open("wb", buffering=0) as file:
            tensors: dict[str, _Pieces] = {
                "keys": (keys.shape, [keys]),
                "shapes": (shapes.shape, [shapes]),
                "data": (size, rows),
            }
            _save(file, tensors, {"format": FORMAT, "owner": owner})
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; other shards are kept; run the same command to continue") from None
    return path


def _save(
    file: RawIOBase,
    tensors: Mapping[str, _Pieces],
    metadata: Mapping[str, str],
) -> None:
    """Write a safetensors file from tensors that are in several pieces in memory.

    The library needs each tensor in one piece, but joining a shard's images would take longer than this whole function.

    Args:
        file: an unbuffered file.
        tensors: tensor name -> its shape and pieces.
        metadata: the ``__metadata__`` of the file.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, (shape, pieces) in tensors.items():
        begin, end = end, end + sum(piece.nbytes for piece in pieces)
        header[name] = {"dtype": _NAMES[pieces[0].dtype], "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # aligns the tensors
    buffers: list[Any] = [len(encoded).to_bytes(8, "little"), encoded]
    for buffer in [*buffers, *(piece for _, pieces in tensors.values() for piece in pieces if piece.size)]:
        left = memoryview(buffer).cast("B")
        while left:
            left = left[file.write(left) :]


def shards(keys: Iterable[bytes]) -> list[list[bytes]]:
    """Return the keys of images in groups, one group per shard."""
    keys = list(keys)
    return [keys[start : start + SHARD_IMAGES] for start in range(0, len(keys), SHARD_IMAGES)]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=KEY_BYTES).digest()


def _map(path: Path, name: str) -> NDArray[Any]:
    """Return a tensor of a safetensors file as a memory map; writing to it does not change the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    begin, end = entry["data_offsets"]
    dtype = {name: dtype for dtype, name in _NAMES.items()}[entry["dtype"]]
    if begin == end:  # an empty map is an error
        return np.empty(0, dtype)
    mapped = np.memmap(path, dtype, mode="c", offset=8 + length + begin, shape=entry["shape"])
    return mapped.view(np.ndarray)  # there are many slices, and slices of a plain array take less memory
