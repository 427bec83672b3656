import pytest

from feddat.models.vilt.backbone import ViltBackbone
from helpers import make_tiny_vilt


@pytest.fixture
def folder(tmp_path):
    return make_tiny_vilt(tmp_path / "tiny")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return ViltBackbone(make_tiny_vilt(tmp_path_factory.mktemp("model") / "tiny"))
