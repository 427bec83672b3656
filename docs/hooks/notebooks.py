"""Convert notebooks to pages with their text, code and stored outputs.

Building the site does not run notebooks. Their test runs them, and so does ``python docs/hooks/notebooks.py``, which
stores the outputs in them.
"""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

#: Terminal escapes, which are removed.
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page, its pictures and the notebook itself for every notebook below the documents."""
    docs = Path(config.docs_dir)
    for path in sorted(docs.rglob("*.ipynb")):
        uri = path.relative_to(docs).with_suffix("").as_posix()
        text, pictures = as_markdown(nbformat.read(path, as_version=4), path.stem)
        files.append(File.generated(config, f"{uri}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{uri.rpartition('/')[0]}/{name}", content=content))
        if existing := files.get_file_from_path(f"{uri}.ipynb"):
            files.remove(existing)
        files.append(File.generated(config, f"{uri}.ipynb", content=path.read_bytes()))
    return files


def as_markdown(notebook: Any, stem: str) -> tuple[str, dict[str, bytes]]:
    """Return a notebook as Markdown, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"````python\n{cell.source}\n````")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above draws]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">\n{data["text/html"]}\n</div>')
            elif text := ESCAPES.sub("", output.get("text") or data.get("text/plain", "")).rstrip():
                parts.append(f'````text title="output"\n{text}\n````')
    parts.insert(1, f"[Download this notebook]({stem}.ipynb){{ .md-button download }}")
    return "\n\n".join(parts) + "\n", pictures


def execute(path: Path, folder: Path) -> Any:
    """Return a notebook executed from the start, in ``folder``.

    Raises:
        CellExecutionError: a cell raises.
    """
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day, which differ between executions
        if cell.cell_type == "code":  # warnings of libraries contain paths of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    import tempfile

    for given in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as scratch:
            done = execute(given, Path(scratch))
        nbformat.write(done, given)
