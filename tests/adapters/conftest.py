"""Fixtures that return the tiny models."""

import pytest
from tiny_models import CASES, Case


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    """Return every architecture in turn."""
    found: Case = request.param
    return found


@pytest.fixture
def vilt() -> Case:
    return CASES[0]


@pytest.fixture
def vit() -> Case:
    return CASES[2]


@pytest.fixture
def bert() -> Case:
    return CASES[1]
