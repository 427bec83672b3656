"""The table of published sizes in docs/models.md is what the code counts."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("model_table", ROOT / "tools" / "model_table.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)


@pytest.mark.parametrize("name", tool.MODELS)
def test_the_documented_numbers_are_counted(name):
    lines = (ROOT / "docs" / "models.md").read_text().splitlines()
    assert "| " + " | ".join(tool.row(name)) + " |" in lines
