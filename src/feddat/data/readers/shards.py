"""Find the Parquet files of each split of a dataset, on the Hub or in a folder with the same files.

The dataset's card names them (``configs`` with ``data_files``). Otherwise folders and names of files tell the split:
``data/train-00000-of-00002``, ``default/train/0000`` (the Hub's own conversion, under ``refs/convert/parquet``) or
``train``. See huggingface.co/docs/hub, "Data files Configuration".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

#: Split -> its names in datasets.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SUFFIX = ".parquet"


def find_shards(
    files: Iterable[str], configs: Sequence[Mapping[str, Any]] = (), config: str = ""
) -> dict[str, list[str]]:
    """Return the Parquet files of every split of one configuration of a dataset, in order.

    Args:
        files: paths of the dataset's files in its repository.
        configs: the configurations that its card lists.
        config: name of a configuration; empty: ``default``, or the first.

    Returns:
        Split -> paths; empty if there are no Parquet files or no such configuration.
    """
    files = sorted(path for path in files if path.endswith(SUFFIX))
    for one in _chosen(configs, config):
        if found := _by_card(one.get("data_files"), files):
            return found
    if config:
        return _by_name(path for path in files if path.startswith(f"{config}/"))
    # Deeper folders are configurations only if nothing above them is a split; they may be anything else.
    above = [path for path in files if path.count("/") < 2]
    if found := _by_split(above)[0]:
        return found
    folders = {path.partition("/")[0] for path in files if path.count("/") >= 2}
    for folder in sorted(folders, key=lambda name: (name != "default", name)):
        if found := _by_split(path for path in files if path.startswith(f"{folder}/"))[0]:
            return found
    return _by_name(above or files)


def used_splits(known: Collection[str], named: Mapping[str, str]) -> dict[str, str]:
    """Return the splits to use of a dataset with these, ours -> theirs, given those that a client names.

    Without a split for test, the one for validation is the test split. A split that a client names for something else
    is not used for validation.
    """
    found = {name: alias for name, aliases in ALIASES.items() for alias in reversed(aliases) if alias in known}
    found |= named
    if "test" not in found and "validation" in found and "validation" not in named:
        found["test"] = found.pop("validation")
    if "validation" not in named and found.get("validation") in named.values():
        del found["validation"]
    return {"train": "train", "test": "test"} | found


def _chosen(configs: Sequence[Mapping[str, Any]], config: str) -> list[Mapping[str, Any]]:
    if config:
        return [one for one in configs if one.get("config_name") == config]
    default = [one for one in configs if one.get("default") or one.get("config_name") == "default"]
    return [*default, *configs][:1]


def _by_card(data_files: Any, files: Sequence[str]) -> dict[str, list[str]]:
    """Return the files that match a card's patterns, by split; patterns without a split are for train."""
    if isinstance(data_files, str):
        data_files = [data_files]
    found: dict[str, list[str]] = {}
    for entry in data_files if isinstance(data_files, list) else []:
        if not isinstance(entry, str | Mapping):
            continue
        split, patterns = ("train", entry) if isinstance(entry, str) else (str(entry.get("split")), entry.get("path"))
        patterns = patterns if isinstance(patterns, list) else [patterns]
        named = [path for path in files if any(fnmatchcase(path, str(pattern)) for pattern in patterns)]
        if named:
            found.setdefault(split, []).extend(named)
    return found


def _by_name(files: Iterable[str]) -> dict[str, list[str]]:
    """Return the files of the splits that their names tell; if no name tells one, all are for train."""
    found, rest = _by_split(files)
    return found or ({"train": rest} if rest else {})


def _by_split(files: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the files of the splits that folders and names of files tell, and the other files."""
    found: dict[str, list[str]] = {}
    rest: list[str] = []
    for path in files:
        words = re.split(r"[/._\-]", path.removesuffix(SUFFIX).lower())
        split = next((name for name, aliases in ALIASES.items() if any(alias in words for alias in aliases)), None)
        (found.setdefault(split, []) if split is not None else rest).append(path)
    return found, rest
