"""What lies in the folder of an exported model, beside what PEFT and transformers know.

==================== ===============================================================================================
``feddat.json``      what it is, and how it answers (:class:`ExportInfo`)
``answers.json``     a client's answers, the list that its head's classes are numbered by
``head.safetensors`` its head, where that is not among the model's weights
``fusion.safetensors`` what pools the tokens of two towers before the head, where something trained does
``README.md``        the model card
==================== ===============================================================================================

No client's name is in it, nor any of its data but the answers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feddat.files import write_json

INFO_FILE, ANSWERS_FILE, CARD_FILE = "feddat.json", "answers.json", "README.md"
HEAD_FILE, FUSION_FILE = "head.safetensors", "fusion.safetensors"
#: Version of the folder's layout.
LAYOUT = 1


class ExportError(RuntimeError):
    """A model cannot be exported, or an exported one cannot be used; the message names the folder, route or option."""


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What ``feddat.json`` holds.

    Attributes:
        model: the foundation model: a bundled name, a name on the Hub, or a folder.
        family: its family.
        weights, encoder: hashes of its weights and of what reads pictures and texts.
        format: number format of its weights.
        kind: kind of adapter; ``head``: none, the foundation model is used as it is.
        route: route that it answers on.
        merged: whether the folder is a model of its own, with the adapter in its weights.
        pictures: settings of how pictures are read that are not the default ones.
        task, answering, rank_top: how a client answers; ``None``: this is nobody's model, but what all have in common.
        head_init: how the head was begun, which says of which layers it is.
        head_prefix: before the names of the head's tensors in a merged model's weights; ``None``: not among them.
        fusion: how two towers become one: ``product`` or ``transformer``.
        fusion_weights: of as many fusions, whose outputs are added up.
    """

    model: str
    family: str
    weights: str
    encoder: str
    format: str
    kind: str
    route: str
    merged: bool
    pictures: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    answering: str | None = None
    rank_top: int | None = None
    head_init: str | None = None
    head_prefix: str | None = None
    fusion: str = "product"
    fusion_weights: list[float] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``feddat.json``."""
        write_json(folder / INFO_FILE, {"layout": LAYOUT} | dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ExportInfo:
        """Read ``feddat.json``.

        Raises:
            ExportError: it is missing or unusable.
        """
        path = folder / INFO_FILE
        values = read_json(path, "not the folder of an exported model (feddat export)")
        if not isinstance(values, dict) or (layout := values.pop("layout", None)) != LAYOUT:
            found = layout if isinstance(values, dict) else type(values).__name__
            raise ExportError(f"{path}: layout {found}; this version reads layout {LAYOUT}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ExportError(f"{path}: {error}") from None


def is_export(folder: Path) -> bool:
    """Return whether a folder is one of an exported model."""
    return (folder / INFO_FILE).is_file()


def read_json(path: Path, otherwise: str) -> Any:
    """Return what a JSON file holds.

    Raises:
        ExportError: it is missing, which means ``otherwise``, or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; {otherwise}") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON: {error}") from None
