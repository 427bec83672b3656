"""Read YAML (https://yaml.org/spec/1.1/) that people write, and report mistakes that a stock reader ignores.

Keys must be names, so a key that YAML reads as something else (``no``, ``3``, ``2024-01-01``) is a mistake, as is a
duplicate key. The expanded size of a file is bounded, since a few lines of aliases can stand for billions of values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from feddat.text import normal_text

#: The most values in a document, with aliases expanded; and the largest file, in bytes.
MOST_VALUES, MOST_BYTES = 1_000_000, 4 * 2**20
#: The deepest nesting of brackets.
MOST_DEPTH = 100
_TAG = "tag:yaml.org,2002:"
#: How to name the types that YAML 1.1 gives to some unquoted words.
_KINDS = {"int": "a number", "float": "a number", "null": "nothing", "timestamp": "a date", "bool": "true or false"}


class YamlError(ValueError):
    """A text is not usable YAML; the message says where, and what to do."""


def read_yaml(path: Path) -> Any:
    """Return the contents of a YAML file.

    Raises:
        YamlError: it is not YAML, a key is not a name or occurs twice, or it is too large; the message names the line.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise YamlError(f"larger than {MOST_BYTES >> 20} MiB, the limit for settings")
    return parse_yaml(content)


class _WithoutAliases(yaml.SafeLoader):
    """A loader that refuses aliases."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("a value has an alias (*name); write it out")
        return super().compose_node(parent, index)


def parse_yaml(content: bytes | str, aliases: bool = True) -> Any:
    """Return the contents of a YAML text; bytes must be UTF-8, or UTF-16 with a byte order mark.

    Raises:
        YamlError: as for :func:`read_yaml`; or the text has aliases although ``aliases`` is false.
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
        # PyYAML raises these for an invalid number or date, or a tag that does not fit: 2024-13-01, !!int x.
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from None


def _check_depth(content: bytes | str) -> None:
    """Raise if brackets are nested deeper than in any settings; PyYAML would take minutes to notice."""
    depth = 0
    for bracket in re.findall(
        rb"[\[\]{}]", content if isinstance(content, bytes) else content.encode("utf-8", "replace")
    ):
        depth = max(0, depth + (1 if bracket in b"[{" else -1))
        if depth > MOST_DEPTH:
            raise YamlError("not valid YAML: nested too deeply")


class _Mistake(yaml.MarkedYAMLError):
    """A mistake at one place in a document."""

    def __init__(self, problem: str, node: yaml.Node) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


class _Check:
    """Check every node of a document once, before constructing anything."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node) -> int:
        """Return the number of values in a node, including itself and with aliases expanded.

        Raises:
            YAMLError: there are more than :data:`MOST_VALUES`, a node contains itself, a key is not a name or occurs
                twice, or a text has invalid characters.
        """
        if id(node) in self._open:
            raise _Mistake("an alias refers to a value that contains it", node)
        if id(node) not in self._sizes:
            self._open.add(id(node))
            size = 1
            for part in self._parts(node):
                size += self.size(part)
                if size > MOST_VALUES:
                    raise _Mistake(f"aliases expand to more than {MOST_VALUES:,} values", node)
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
            raise _Mistake("a text contains half of a character (a UTF-16 surrogate)", node)
        if "\0" in node.value:
            raise _Mistake("a text contains a null character", node)
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
            raise _Mistake(f"key {key.value!r} occurs twice, first in line {seen[name]}; remove one", key)
        seen[name] = key.start_mark.line + 1


def _explained(error: yaml.YAMLError) -> str:
    """Return an error in one line, with the number of the line that it is about."""
    if isinstance(error, _Mistake) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    if isinstance(error, yaml.reader.ReaderError) and error.encoding == "utf-8":
        return "not UTF-8 text; save it as UTF-8"
    return f"not valid YAML: {' '.join(str(error).split())}"
