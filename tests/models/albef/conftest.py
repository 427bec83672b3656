import pytest

from feddat.models.albef.backbone import AlbefBackbone
from helpers import make_tiny_albef


@pytest.fixture
def folder(tmp_path):
    return make_tiny_albef(tmp_path / "tiny")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    return AlbefBackbone(make_tiny_albef(tmp_path_factory.mktemp("albef") / "tiny"))
