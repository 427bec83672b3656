"""Write the files of a deployment from templates: settings, instructions, start files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from feddat.yaml_files import YamlError, parse_yaml


def render(template: str, to: Path, values: Mapping[str, Any]) -> None:
    """Write a file from one of this package's templates; make scripts executable for their owner."""
    source = resources.files("feddat.deploy") / "templates" / template
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["yaml"] = _as_yaml
    to.write_text(environment.from_string(source.read_text(encoding="utf-8")).render(values), encoding="utf-8")
    if to.suffix == ".sh":
        to.chmod(0o700)


def _as_yaml(text: str) -> str:
    """Return a text that YAML reads back as the same text, in quotes if it would read a number, a date or ``no``."""
    try:
        plain = parse_yaml(f"[{text}]") == [text] and parse_yaml(f"{text}: 1") == {text: 1}
    except YamlError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
