"""Load all weights of a Hugging Face folder into a transformers model, or raise a one-line error.

Weights come from safetensors files. If a folder has none, they come from PyTorch files, which are read with
``weights_only``: files that hold more than tensors are refused, and nothing in them ever runs.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers.utils import logging as transformers_logging

from feddat.models.base import Backbone, ModelError
from feddat.models.folder import first_line, read_config, require_file

log = logging.getLogger(__name__)

_INDEX = ".index.json"
#: Possible weight files of a folder, in order of preference: one file, or an index of several.
_PLACES = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
#: Key of ``config.json`` in folders with quantised weights.
_QUANTISED = "quantization_config"
#: Suffix of pickle files.
_PICKLED = ".bin"


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a folder.

    Raises:
        ModelError: the folder has no weights, or lacks a file that its index names.
    """
    first = require_file(folder, _PLACES, "weights")
    if not first.name.endswith(_INDEX):
        return [first]
    try:
        names = sorted(set(json.loads(first.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{first}: expected a weight_map from tensor names to files: {error}") from None
    for name in names:
        # Accept only files in this folder and of the same kind: an index of safetensors must not lead to a pickle.
        if Path(name).name != name or not name.endswith(Path(first.name.removesuffix(_INDEX)).suffix):
            raise ModelError(f"{first}: names {name!r}; expected a file of the same kind in the same folder")
        if not (folder / name).is_file():
            raise ModelError(f"{first}: names {name}, which is not in the folder")
    return [folder / name for name in names]


def read_tensors(path: Path, wanted: Collection[str] = ()) -> tuple[set[str], dict[str, Tensor]]:
    """Return the names of all tensors in a weight file, and the ``wanted`` tensors that it holds.

    Args:
        path: one of :func:`weight_files`.
        wanted: names of tensors to read.

    Raises:
        pickle.UnpicklingError, SafetensorError, OSError, RuntimeError, ...: the file is damaged or holds more than
            tensors.
    """
    if path.suffix == _PICKLED:
        # In a mapped file, only the wanted tensors are read.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path) or None)
        return set(state), {name: state[name] for name in wanted if name in state}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        return names, {name: file.get_tensor(name) for name in wanted if name in names}


def weights_hash(state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> str:
    """Return a hash of named tensors: of their names, dtypes, shapes and values, independent of their device.

    Args:
        state: the tensors.
        dtype: dtype in which floating-point tensors count; default: their own.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(state.items()):
        values = value.detach().cpu().contiguous()
        if dtype is not None and values.is_floating_point():
            values = values.to(dtype)
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data if values.numel() else b"")
    return digest.hexdigest()


def original_hash(backbone: Backbone) -> str:
    """Return the hash of a backbone's weights before they were rounded; it is the same on all devices.

    Call this before adapters are added.
    """
    found: str | None = getattr(backbone, "unrounded", None)
    return weights_hash(backbone.model.state_dict()) if found is None else found


def load_weights(kind: Any, folder: Path, family: str, forgiven: Collection[str] = (), **options: Any) -> Any:
    """Return a model of class ``kind`` with a folder's weights, in float32 unless ``options`` set another ``dtype``.

    Args:
        kind: transformers model class.
        folder: Hugging Face model folder; weights that ``kind`` does not have are ignored.
        family: name of the model for messages.
        forgiven: names of tensors that can be missing.
        options: further keyword arguments of ``from_pretrained``.

    Raises:
        ModelError: weights are missing, unreadable or already quantised, or tensors are missing or have another shape.
    """
    _check_not_quantised(folder)
    pickled = weight_files(folder)[0].suffix == _PICKLED
    if pickled:
        log.info("model folder %s: no safetensors; reading pytorch_model.bin, tensors only", folder)
    try:
        with quiet():
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=not pickled,
                weights_only=True,
                ignore_mismatched_sizes=True,  # the report lists them
                output_loading_info=True,
                **({"dtype": torch.float32} | options),
            )
    except Exception as error:  # transformers and safetensors raise many kinds of errors for damaged or unfitting files
        raise unloadable(folder, family, error) from error
    missing = sorted(set(report["missing_keys"]).difference(forgiven))
    if missing:
        raise ModelError(f"model folder {folder}: weights lack {some(missing)}")
    if report["mismatched_keys"]:
        unfit = sorted(name for name, *_ in report["mismatched_keys"])
        raise ModelError(f"model folder {folder}: weights differ in shape from config.json: {some(unfit)}")
    return model


def _check_not_quantised(folder: Path) -> None:
    """Check that a folder holds a model's own weights, not weights that were quantised.

    Layers of quantisation libraries ignore the requested format, cannot be merged with adapters, and can change in use.

    Raises:
        ModelError: ``config.json`` of the model, or of a part of it, says that its weights were quantised.
    """
    config = read_config(folder)
    if any(isinstance(part, dict) and part.get(_QUANTISED) for part in (config, *config.values())):
        raise ModelError(
            f"{folder / 'config.json'}: {_QUANTISED}: these weights were quantised before; give the folder with the "
            "original weights (weights=int4 or int8 then stores those of a decoder in fewer bits)"
        )


def unloadable(folder: Path, family: str, error: Exception) -> ModelError:
    """Return the error to raise if a library cannot read a folder's weights."""
    if isinstance(error, pickle.UnpicklingError):
        return ModelError(
            f"model folder {folder}: pytorch_model.bin is damaged or holds more than tensors, and nothing in it was "
            "run; use a folder with safetensors"
        )
    return ModelError(f"model folder {folder}: weights cannot be loaded as {family}: {first_line(error)}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and loading report. Callers check the report and raise errors themselves."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def some(names: Sequence[str], what: str = "tensor") -> str:
    """Return the number of tensors or other things and the names of the first three, for messages."""
    return f"{len(names)} {what}(s): " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
