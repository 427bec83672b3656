"""The table of model sizes in docs/models.md has the numbers that the code counts."""

from pathlib import Path

import published_sizes
import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.mark.parametrize("name", published_sizes.MODELS)
def test_the_documented_numbers_are_counted(name):
    assert "| " + " | ".join(published_sizes.row(name)) + " |" in DOCUMENT.read_text().splitlines()
