"""YAML that people write (https://yaml.org/spec/1.1/), read with the mistakes named that a stock reader passes over.

Keys are names, so that a key which YAML reads as something else (``no``, ``3``, ``2024-01-01``) is a mistake, as is a
key that stands twice. What a file may expand to is bounded: a few lines of aliases can mean billions of values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from feddat.text import normal_text

#: Values that one document may stand for, aliases written out; and bytes of a file.
MOST_VALUES, MOST_BYTES = 1_000_000, 4 * 2**20
#: Brackets that may be open at the same time.
MOST_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
#: What YAML 1.1 takes some words for that no quotes stand around.
_KINDS = {"int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date", "bool": "true or false"}


class YamlError(ValueError):
    """A text is not YAML that can be used; the message says where and what to do."""


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        YamlError: it is not YAML, a key is no text or stands twice, or it is too large; says in which line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise YamlError(f"larger than {MOST_BYTES >> 20} MiB, which no settings are")
    return parse_yaml(content)


class _WithoutAliases(yaml.SafeLoader):
    """Refuses what stands for something else."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a value has an alias (*name); write it out")
        return super().compose_node(parent, index)


def parse_yaml(content: bytes | str, aliases: bool = True) -> Any:
    """Return what a YAML text means; bytes are UTF-8, or UTF-16 with its mark.

    Raises:
        YamlError: as :func:`read_yaml`; or it has aliases, and may have none.
    """
    _check_depth(content)
    try:
        loader = yaml.SafeLoader(content) if aliases else _WithoutAliases(content)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Check().size(node)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise YamlError(_explained(error)) from None
    except RecursionError:
        raise YamlError("not valid YAML: nested too deeply") from None
    except (ValueError, ArithmeticError, TypeError, AttributeError, LookupError) as error:
        # What PyYAML raises for a number or a date that is none, or a tag on something else: 2024-13-01, !!int x.
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from None


def _check_depth(content: bytes | str) -> None:
    """Raise if brackets open deeper than any settings do: PyYAML takes minutes to find that out."""
    depth = 0
    for bracket in re.findall(
        rb"[\[\]{}]", content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    ):
        depth = max(0, depth + (1 if bracket in b"[{" else -1))
        if depth > MOST_DEPTH:
            raise YamlError("not valid YAML: nested too deeply")


class _Mistake(yaml.MarkedYAMLError):
    """A mistake at one place of a document."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Check:
    """Looks at every node of a document once, before anything is made of it."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node) -> int:
        """Return the number of values that a node stands for, itself among them: an alias costs what it stands for.

        Raises:
            YAMLError: there are more than :data:`MOST_VALUES`, a node holds itself, a key is no name or stands twice,
                or a text is none.
        """
        if id(node) in self._open:
            raise _Mistake("an alias stands inside what it stands for", node)
        if id(node) not in self._sizes:
            self._open.add(id(node))
            size = 1
            for part in self._parts(node):
                size += self.size(part)
                if size > MOST_VALUES:
                    raise _Mistake(f"aliases stand for more than {MOST_VALUES:,} values", node)
            self._open.discard(id(node))
            self._sizes[id(node)] = size
        return self._sizes[id(node)]

    def _parts(self, node: yaml.Node) -> list[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            return [part for pair in node.value for part in pair]
        if any("\ud800" <= character <= "\udfff" for character in node.value):
            raise _Mistake("a text holds half of a character (a UTF-16 surrogate)", node)
        if "\0" in node.value:
            raise _Mistake("a text holds a zero character", node)
        return []


def _check_keys(node: yaml.MappingNode) -> None:
    seen: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag == _TAG + "merge":
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise _Mistake("a key must be a name, not a list or a mapping", key)
        if key.tag != _TAG + "str":
            kind = _KINDS.get(key.tag.removeprefix(_TAG), "something else")
            hint = f'; put it in quotes: "{key.value}"' if key.value else ""
            raise _Mistake(f"key {key.value or '(empty)'}: YAML reads it as {kind}, not as a name{hint}", key)
        name = normal_text(key.value)
        if name in seen:
            raise _Mistake(f"key {key.value!r} stands twice, first in line {seen[name]}; remove one", key)
        seen[name] = key.start_mark.line + 1


def _explained(error: yaml.YAMLError) -> str:
    """Return an error in one line, with the line of the text that it is about."""
    if isinstance(error, _Mistake) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError) and error.encoding == "utf-8":
        return "not UTF-8 text; save it as UTF-8"
    return f"not valid YAML: {' '.join(str(error).split())}"
