"""Make pages from the repository's files that documents link to, so that no link leaves the site.

Documents link to files such as ``../src/feddat/files.py``, as on a code host. Each such file becomes a page below
``source/``: Markdown is rendered, a folder shows its README or a list, and everything else is shown as code. A link to
a missing file does not change, and MkDocs reports it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

#: A Markdown link or image, or an HTML link: the part before the target, the target, and its anchor.
LINK = re.compile(r"(\]\(\s*<?|(?:href|src|srcset)=\")([^)\s>\"#?]+)(#[^)\s>\"]*)?")
FENCE = re.compile(r"^ *(```|~~~).*?^ *\1[^\n]*$", re.DOTALL | re.MULTILINE)
#: File suffix -> name for the highlighter.
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json", ".sh": "bash"}
SOURCE = "source"
#: Suffixes of files that the site shows unchanged.
AS_THEY_ARE = {".png", ".svg", ".jpg"}

_repository_paths: dict[str, str] = {}


def links(text: str) -> Iterator[str]:
    """Yield the relative targets of a page's links outside code blocks."""
    for _, target, _ in LINK.findall(FENCE.sub("", text)):
        if ":" not in target and not target.startswith("/"):
            yield target


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every repository file that documents link to, directly or through such a page."""
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()
    _repository_paths.clear()
    for file in files.documentation_pages():
        _repository_paths[file.src_uri] = f"{docs}/{file.src_uri}"
    waiting = list(_repository_paths.values())
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        for target in links((root / path).read_text(encoding="utf-8")) if (root / path).is_file() else ():
            found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            if found.startswith("..") or is_document(found, docs) or not (root / found).exists():
                continue
            readme = f"{found}/README.md" if (root / found).is_dir() else found
            found = readme if (root / readme).is_file() else found
            if found not in seen:
                seen.add(found)
                uri, content = page_of(root, found)
                files.append(File.generated(config, uri, content=content))
                _repository_paths[uri] = found
                waiting += [found] * found.endswith(".md")
    return files


def is_document(path: str, docs: str) -> bool:
    """Return whether a path is a document, rather than another file of the repository."""
    return f"{path}/".startswith(f"{docs}/") and not path.startswith(f"{docs}/hooks/")


def page_of(root: Path, path: str) -> tuple[str, str | bytes]:
    """Return the place of a file's or folder's page in the site, and its text."""
    hidden = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n"
    if (root / path).is_dir():
        inside = sorted(p.name for p in (root / path).iterdir() if p.suffix in {".py", ".yaml"})
        rows = "\n".join(f"- `{name}`" for name in inside)
        return f"{SOURCE}/{path}/index.md", f"{hidden}# `{path}/`\n\n{rows}\n"
    file = root / path
    if file.suffix in AS_THEY_ARE:
        return f"{SOURCE}/{path}", file.read_bytes()
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        return f"{SOURCE}/{path}", text
    language = LANGUAGES.get(file.suffix, "text")
    return f"{SOURCE}/{path}.md", f"{hidden}# `{path}`\n\n````{language}\n{text}\n````\n"


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages."""
    here = page.file.src_uri
    path = _repository_paths.get(here)
    if path is None:
        return markdown
    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir).relative_to(root).as_posix()

    def turned(match: re.Match[str]) -> str:
        before, target, anchor = match[1], match[2], match[3] or ""
        if ":" in target or target.startswith("/"):
            return match[0]
        found = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if is_document(found, docs):
            uri = found.removeprefix(f"{docs}/")
            page_of_notebook = f"{uri.removesuffix('.ipynb')}.md"
            if uri.endswith(".ipynb") and files.get_file_from_path(page_of_notebook):
                uri = page_of_notebook
        else:
            readme = f"{found}/README.md" if (root / found).is_dir() else found
            found = readme if (root / readme).is_file() else found
            uri = next((u for u, p in _repository_paths.items() if p == found and u.startswith(SOURCE)), "")
            if not uri and files.get_file_from_path(f"{SOURCE}/{found}"):
                uri = f"{SOURCE}/{found}"
        if not uri:
            return match[0]
        return before + posixpath.relpath(uri, posixpath.dirname(here) or ".") + anchor

    fences: list[str] = []

    def hide(match: re.Match[str]) -> str:
        fences.append(match[0])
        return f"\0{len(fences) - 1}\0"

    shown = LINK.sub(turned, FENCE.sub(hide, markdown))
    return re.sub("\0(\\d+)\0", lambda match: fences[int(match[1])], shown)
