"""The notebooks run from the start, on the bundled model."""

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("docs_hook_notebooks", ROOT / "docs" / "hooks" / "notebooks.py")
hook = importlib.util.module_from_spec(SPEC)
pytest.importorskip("mkdocs", reason="the site needs the extra `docs`")
pytest.importorskip("nbclient", reason="notebooks are executed with the extra `dev`")
SPEC.loader.exec_module(hook)


@pytest.mark.parametrize("name", ["federation", "own_method"])
def test_a_notebook_runs_and_shows_what_it_says(name, tmp_path, monkeypatch):
    # The kernel is another process. It must find this package, and must not use every core beside other tests.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = hook.execute(ROOT / "docs" / "notebooks" / f"{name}.ipynb", tmp_path)
    text, pictures = hook.as_markdown(notebook, name)
    assert len(pictures) == {"federation": 3, "own_method": 1}[name]
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())
    if name == "federation":
        assert "round 6 of 6" in text and "65,000 of" in text
    assert "short-updates" in text or name == "federation"
