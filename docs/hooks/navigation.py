"""Add pages that the navigation does not name to the end of their section, so that readers can reach every page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig

#: Folder of the documents -> section of the navigation.
SECTIONS = {
    "": "Guides",
    "start": "Start",
    "method": "Method",
    "results": "Results",
    "reference": "Reference",
    "architecture": "Architecture",
    "dev": "Development",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation."""
    docs = Path(config.docs_dir)
    nav: list[dict[str, list[Any]]] = config.nav or []
    known = set(named(nav))
    for path in sorted([*docs.glob("*.md"), *docs.glob("*/*.md")]):
        uri = path.relative_to(docs).as_posix()
        folder = uri.rpartition("/")[0]
        if uri not in known and folder in SECTIONS:
            next(item[SECTIONS[folder]] for item in nav if SECTIONS[folder] in item).append(uri)
    return config


def named(nav: Any) -> list[str]:
    """Return every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav
    return [page for item in inside for page in named(item)]
