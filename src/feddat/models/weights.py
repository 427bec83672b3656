"""Weights of a Hugging Face folder into a transformers model: all of them, in the right shapes, or a one-line error."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from feddat.models.base import ModelError
from feddat.models.folder import first_line, require_file

_INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """Return a folder's safetensors files.

    Raises:
        ModelError: it has none.
    """
    first = require_file(folder, ("model.safetensors", _INDEX), "weights")
    return sorted(folder.glob("model-*.safetensors")) if first.name == _INDEX else [first]


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return a hash of tensors by name: of names, dtypes, shapes and values, wherever the tensors lie."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(state.items()):
        values = value.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()


def load_weights(kind: Any, folder: Path, family: str, forgiven: Collection[str] = (), **options: Any) -> Any:
    """Return a model of class ``kind`` with a folder's weights, float32 unless ``options`` name another ``dtype``.

    Args:
        kind: transformers model class.
        folder: Hugging Face model folder; weights that ``kind`` does not have are left out.
        family: what messages call the model.
        forgiven: tensors that may be missing.
        options: further keyword arguments of ``from_pretrained``.

    Raises:
        ModelError: there are no weights, they cannot be read, or tensors are missing or of another shape.
    """
    weight_files(folder)
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they come back in the report
                output_loading_info=True,
                **({"dtype": torch.float32} | options),
            )
    except Exception as error:  # transformers and safetensors raise many kinds for damaged or unfitting files
        raise unloadable(folder, family, error) from error
    missing = sorted(set(report["missing_keys"]).difference(forgiven))
    if missing:
        raise ModelError(f"model folder {folder}: weights lack {some(missing)}")
    if report["mismatched_keys"]:
        unfit = sorted(name for name, *_ in report["mismatched_keys"])
        raise ModelError(f"model folder {folder}: weights of another shape than config.json says: {some(unfit)}")
    return model


def unloadable(folder: Path, family: str, error: Exception) -> ModelError:
    """Return what to raise where a library cannot read a folder's weights."""
    return ModelError(f"model folder {folder}: weights cannot be loaded as {family}: {first_line(error)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and loading report: what matters in it is checked and raised here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def some(names: Sequence[str]) -> str:
    """Return how many tensors there are, and the names of the first, for messages."""
    return f"{len(names)} tensor(s): " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
