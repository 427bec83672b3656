"""Helpers for tests of several rooms: small random models with a few words, a command runner, a CPU requirement."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from torch import Tensor

from feddat.adapters.int8_products import cannot_multiply
from feddat.app.checkpoint import read_state
from feddat.cli.program import main
from feddat.models.albef.model import AlbefConfig
from feddat.models.tiny import make_tiny
from feddat.models.tiny.albef import albef_config
from feddat.models.tiny.settings import SIZES
from feddat.models.tiny.words import bert_vocabulary

WORDS = ("what", "is", "the", "color", "red", "blue", "green", "yes", "no", "circle", "square", "two", "?")

needs_vnni = pytest.mark.skipif(cannot_multiply("cpu") is not None, reason="a CPU that multiplies 8-bit numbers")


def call(*arguments: str) -> int:
    """Run a command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Let files of this process grow to ``size`` bytes and no further; this needs no root rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def make_vocabulary() -> dict[str, int]:
    """Return a BERT vocabulary of ``WORDS`` and every lower-case letter and digit as a word piece."""
    return bert_vocabulary(WORDS)


def make_unit(family: str, folder: Path, words: Sequence[str] = ()) -> Path:
    """Write a model of unit-test size that knows ``WORDS`` and ``words``, and return its folder."""
    return make_tiny(family, folder, SIZES["unit"], [*WORDS, *words])


def make_tiny_vilt(folder: Path, words: Sequence[str] = ()) -> Path:
    """Write a random ViLT with a masked-word head: width 32, 2 layers, images of 32 pixels in 4 patches."""
    return make_unit("vilt", folder, words)


def make_tiny_blip(folder: Path) -> Path:
    """Write a random BLIP for question answering: width 32, 2 layers each, images of 32 pixels."""
    return make_unit("blip", folder)


def make_tiny_albef(folder: Path) -> Path:
    """Write a random small ALBEF (:func:`tiny_albef_config`)."""
    return make_unit("albef", folder)


def tiny_albef_config(vocab_size: int | None = None, **changes) -> AlbefConfig:
    """Return a small ALBEF's configuration: width 32, 2 + 4 + 2 layers, 2 of them fusion layers, 32-pixel images."""
    config = albef_config(SIZES["unit"], vocab_size or len(make_vocabulary()))
    return AlbefConfig(**(config.to_dict() | changes)) if changes else config


def sent_in(run: Path, round: int) -> dict[str, Tensor]:
    """Return the shared state that a run's server sent after a round, keyed by the adapters' parameter names."""
    return read_state(run / "checkpoints" / f"round-{round:05d}")[0].shared
