"""Check the finished site: every link must lead to a page or anchor, and no page may load anything from elsewhere."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError

#: Element -> attribute that makes a browser load something. Some kinds of ``link`` only name an address.
LOADS = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
NAMES_ONLY = {"canonical", "alternate", "prev", "next", "license"}


class PageParts(HTMLParser):
    """The links, loaded resources and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record one element."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in LOADS and LOADS[tag] in found and found.get("rel") not in NAMES_ONLY:
            self.loads.append(found[LOADS[tag]])


def faults(site: Path) -> Iterator[str]:
    """Yield one line about every dead link, dead anchor and external resource in a built site."""
    pages: dict[Path, PageParts] = {}
    for path in sorted(site.rglob("*.html")):
        pages[path] = PageParts()
        pages[path].feed(path.read_text(encoding="utf-8"))
    for path, parts in pages.items():
        where = path.relative_to(site).as_posix()
        if where == "404.html":  # its links are absolute, since it is shown in place of any page
            continue
        for address in parts.loads:
            split = urlsplit(address)
            if split.scheme in {"http", "https"} or split.netloc:
                yield f"{where}: loads {address} from elsewhere"
        for address in [*parts.links, *parts.loads]:
            split = urlsplit(address)
            if split.scheme or split.netloc:
                continue
            folder = posixpath.dirname(where)
            name = posixpath.normpath(posixpath.join(folder, unquote(split.path))) if split.path else where
            target = site / name
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                yield f"{where}: {address} leads nowhere"
            elif split.fragment and target in pages and unquote(split.fragment) not in pages[target].anchors:
                yield f"{where}: {address}: no such anchor"


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site with faults.

    Raises:
        PluginError: the site has faults; the message lists them.
    """
    if found := list(faults(Path(config.site_dir))):
        raise PluginError("\n".join(["the site has faults:", *found]))
