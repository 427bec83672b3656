import pytest

from feddat.models.base import ModelError
from feddat.models.catalog import FAMILIES, list_models, load_backbone
from feddat.models.vilt.backbone import ViltBackbone


def test_folder_is_loaded_by_path(folder):
    backbone = load_backbone(str(folder))
    assert isinstance(backbone, ViltBackbone)
    assert backbone.name == str(folder)


def test_bundled_models_are_listed_with_a_description():
    assert list_models().keys() == {"vilt-mini", "albef-mini"}
    assert all(list_models().values())


def test_list_is_a_copy():
    list_models().clear()
    assert list_models()


def test_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(ModelError, match=r"'vilt-huge': neither a bundled model \(.*vilt-mini.*\) nor"):
        load_backbone("vilt-huge")


def test_other_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelError, match=f"model_type 'bert' is not supported; expected {', '.join(sorted(FAMILIES))}"):
        load_backbone(str(tmp_path))


def test_folder_without_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_backbone(str(tmp_path))
