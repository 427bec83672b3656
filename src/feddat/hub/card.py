"""The configurations of a dataset, which its card lists (huggingface.co/docs/hub, "Data files Configuration")."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feddat.hub.address import HubError

#: File name of a card.
CARD = "README.md"


def folder_configs(folder: Path) -> Sequence[Mapping[str, Any]]:
    """Return the configurations that the card in a folder lists; none without a card.

    Raises:
        HubError: the card's YAML cannot be read.
    """
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    path = folder / CARD
    if not path.is_file():
        return []
    try:
        return usable_configs(metadata_load(path))
    except (OSError, ValueError, YAMLError, RecursionError) as error:
        raise HubError(f"{path}: its YAML cannot be read: {' '.join(str(error).split())}") from None


def usable_configs(card: Any) -> Sequence[Mapping[str, Any]]:
    """Return the configurations in the data of a card; entries of other kinds than they should have are left out."""
    configs = card.get("configs") if card is not None else None
    return [one for one in configs if isinstance(one, dict)] if isinstance(configs, list) else []
