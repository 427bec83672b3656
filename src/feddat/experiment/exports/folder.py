"""The files of an exported model, beside those of PEFT and transformers.

==================== ===============================================================================================
``feddat.json``      description of the model, and how it answers (:class:`ExportInfo`)
``answers.json``     the client's answers, in the order of the head's classes
``head.safetensors`` the head, unless it is among the model's weights
``fusion.safetensors`` the trained fusion of two towers, if there is one
``README.md``        the model card
==================== ===============================================================================================

The folder contains no client's name, and no client data except the answers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from feddat.config.errors import explained
from feddat.example import ANSWERING
from feddat.files import write_json
from feddat.models.number_formats import Format
from feddat.tasks import TASKS

INFO_FILE, ANSWERS_FILE, CARD_FILE = "feddat.json", "answers.json", "README.md"
HEAD_FILE, FUSION_FILE = "head.safetensors", "fusion.safetensors"
#: Version of the folder's layout.
LAYOUT = 1


class ExportError(RuntimeError):
    """A model cannot be exported or an exported model cannot be used; the message names the folder, route or option."""


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """The content of ``feddat.json``.

    Attributes:
        model: the foundation model: a bundled name, a name on the Hub, or a folder.
        family: model family of the foundation model.
        weights, encoder: hashes of its weights, and of its image processor and tokenizer.
        format: number format of its weights.
        kind: kind of adapter; ``head``: no adapter, the foundation model is unchanged.
        route: route on which the model answers.
        merged: whether the folder is a complete model, with the adapter merged into its weights.
        pictures: picture-reading settings that differ from the defaults.
        task, answering, rank_top: how the client answers; ``None`` for the shared adapter, which has no client.
        head_init: how the head was initialised, which determines its layers.
        head_prefix: name prefix of the head's tensors in a merged model's weights; ``None`` if they are not in there.
        fusion: how two towers are fused: ``product`` or ``transformer``.
        fusion_weights: weights of the fusions whose outputs are summed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str
    family: str
    weights: str
    encoder: str
    format: Format
    kind: str
    route: str
    merged: bool
    pictures: dict[str, Any] = field(default_factory=dict)
    task: str | None = None
    answering: str | None = None
    rank_top: Annotated[int, Field(ge=1)] | None = None
    head_init: Literal["random", "words"] | None = None
    head_prefix: str | None = None
    fusion: Literal["product", "transformer"] = "product"
    fusion_weights: list[float] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write ``feddat.json``."""
        write_json(folder / INFO_FILE, {"layout": LAYOUT} | dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> ExportInfo:
        """Read ``feddat.json``.

        Raises:
            ExportError: the file is missing or unusable.
        """
        path = folder / INFO_FILE
        values = read_json(path, "not the folder of an exported model (feddat export)")
        if not isinstance(values, dict) or (layout := values.pop("layout", None)) != LAYOUT:
            found = layout if isinstance(values, dict) else type(values).__name__
            raise ExportError(f"{path}: layout {found}; this version reads layout {LAYOUT}")
        try:
            info = TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            known = [item.name for item in dataclasses.fields(cls)]
            raise ExportError(str(explained(error, str(path), known))) from None
        for key, choices in (("task", TASKS), ("answering", ANSWERING)):
            if (value := getattr(info, key)) is not None and value not in choices:
                raise ExportError(f"{path}: {key}: expected one of {', '.join(choices)} (got {value!r})")
        for key in ("answering", "rank_top", "head_init"):
            if info.task is not None and getattr(info, key) is None:
                raise ExportError(
                    f"{path}: {key}: expected a value, since the model answers as a client (task {info.task})"
                )
        return info


def is_export(folder: Path) -> bool:
    """Return whether a folder contains an exported model."""
    return (folder / INFO_FILE).is_file()


def read_json(path: Path, otherwise: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        ExportError: the file is missing, for which the message adds ``otherwise``, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(f"{path}: {error.strerror}; {otherwise}") from None
    except ValueError as error:
        raise ExportError(f"{path}: not JSON: {error}") from None
