"""Behaviour that all families of backbones share, on a tiny random folder of each."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from feddat.adapters.build import build_adapters
from feddat.example import DataError, View
from feddat.models.base import ModelError
from feddat.models.catalog import FAMILIES, encoder_fingerprint, load_backbone, load_encoder
from feddat.models.generative import ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS, GenerativeBackbone, ReadingBackbone
from helpers import make_unit

CPU = torch.device("cpu")


def picture(height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


VIEWS = [
    View(picture(), "what color is the circle ?"),
    View(picture(50, 40, seed=1), "red"),
    View(picture(33, 90, seed=2), "is it blue ?"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: make_unit(family, root / family) for family in FAMILIES}


@pytest.fixture(params=sorted(FAMILIES))
def folder(request, folders):
    return folders[request.param]


@pytest.fixture
def backbone(folder):
    return load_backbone(str(folder))


@pytest.fixture
def copied(folder, tmp_path):
    """Return a copy of the folder, which a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def features(backbone, views=VIEWS, rows=None):
    """Return features of each view; for generative backbones, those of the answer "red" to each."""
    rows = range(len(views)) if rows is None else rows
    inputs = backbone.encode(views).batch(list(rows), CPU)
    if isinstance(backbone, GenerativeBackbone):
        ids = torch.tensor(backbone.answer_tokens(["red"] * len(rows)))
        inputs |= {ANSWER_IDS: ids, ANSWER_MASK: ids >= 0, ANSWER_ROWS: torch.arange(len(rows))}
    with torch.no_grad():
        return backbone.features(inputs)


def files(folder, name):
    """Return every file of that name in a folder and in the folders of its parts."""
    return [path for path in folder.rglob(name) if path.is_file()]


def test_a_backbone_is_frozen_in_eval_mode_and_named(backbone, folder):
    assert backbone.family == folder.name
    assert backbone.name == str(folder)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


def test_features_are_the_same_each_time(backbone):
    first = features(backbone)
    assert (first.shape[0], first.shape[-1]) == (3, backbone.feature_dim)
    assert first.ndim == (3 if isinstance(backbone, GenerativeBackbone) else 2)
    assert first.dtype == torch.float32
    assert torch.equal(features(backbone), first)


def test_features_do_not_depend_on_the_rest_of_the_batch(backbone):
    together = features(backbone)
    alone = torch.cat([features(backbone, rows=[i]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(features(backbone, rows=[2, 0, 2]), together[[2, 0, 2]], atol=1e-5, rtol=0)


def test_writers_that_read_give_one_feature_of_a_question(backbone):
    assert isinstance(backbone, ReadingBackbone) == isinstance(backbone, GenerativeBackbone)
    if isinstance(backbone, ReadingBackbone):
        views = backbone.encode(VIEWS)
        with torch.no_grad():
            together = backbone.question_features(views.batch([0, 1, 2], CPU))
            alone = torch.cat([backbone.question_features(views.batch([i], CPU)) for i in range(3)])
        assert together.shape == (3, backbone.feature_dim)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_features_depend_on_text_and_image(backbone):
    image, text = VIEWS[0].image, VIEWS[0].text
    plain, other_text, other_image = features(
        backbone, [View(image, text), View(image, "red"), View(picture(seed=7), text)]
    )
    assert not torch.allclose(plain, other_text, atol=1e-4)
    assert not torch.allclose(plain, other_image, atol=1e-4)


def test_long_texts_are_cut(backbone):
    assert features(backbone, [View(picture(), "red " * 200)]).isfinite().all()


def test_no_views_are_no_error(backbone):
    assert len(backbone.encode([])) == 0


def test_an_unreadable_image_is_named(backbone, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.jpg"):
        backbone.encode([View(tmp_path / "broken.jpg", "red")])


def test_the_encoder_needs_no_weights(backbone, copied):
    for path in files(copied, "model.safetensors"):
        path.unlink()
    encoder = load_encoder(str(copied))
    assert encoder.fingerprint == backbone.encoder.fingerprint == encoder_fingerprint(str(copied))
    texts = [view.text for view in VIEWS]
    assert encoder.texts(texts) == backbone.encoder.texts(texts)
    assert torch.equal(encoder.image(VIEWS[2].image), backbone.encoder.image(VIEWS[2].image))


def test_the_fingerprint_is_that_of_pixels_and_tokens(copied):
    before = encoder_fingerprint(str(copied))
    for name in ("tokenizer.json", "preprocessor_config.json"):
        path = files(copied, name)[-1]
        path.write_text(path.read_text() + " ")
        assert encoder_fingerprint(str(copied)) != before
        before = encoder_fingerprint(str(copied))


def test_loading_is_silent_and_leaves_the_random_state_alone(folder, capfd):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_backbone(str(folder))
    assert torch.equal(torch.rand(1), expected)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_adapters_change_features_and_off_leave_them(backbone, kind):
    plain = features(backbone)
    adapters = build_adapters(backbone.model, peft=kind, reduction=4, rank=2)
    with torch.no_grad():
        for parameter in adapters.parameters("global"):
            parameter.add_(0.1)
    adapters.route("none")
    torch.testing.assert_close(features(backbone), plain, atol=1e-6, rtol=0)
    adapters.route("global")
    assert not torch.allclose(features(backbone), plain, atol=1e-3)


def _remove(name):
    return lambda folder: [path.unlink() for path in files(folder, name)]


def _tear(name):
    return lambda folder: [path.write_text("{") for path in files(folder, name)]


def _drop_a_tensor(folder):
    path = files(folder, "model.safetensors")[-1]
    weights = load_file(path)
    del weights[next(name for name in weights if "layers.1" in name or "layer.1" in name)]
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("config.json"), "no config.json"),
        (_tear("config.json"), "config.json: cannot be read as JSON"),
        (_remove("model.safetensors"), "no weights; expected model.safetensors"),
        (_tear("model.safetensors"), "weights cannot be loaded as"),
        (_drop_a_tensor, r"weights lack 1 tensor\(s\)"),
        (_remove("tokenizer.json"), "no tokenizer; expected tokenizer.json"),
        (_tear("tokenizer.json"), "tokenizer.json: cannot be loaded as a tokenizer"),
        (_remove("preprocessor_config.json"), "no image processor; expected preprocessor_config.json"),
        (_tear("preprocessor_config.json"), "cannot be loaded as a .* image processor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_folder_is_named(copied, damage, message):
    damage(copied)
    with pytest.raises(ModelError, match=message) as error:
        load_backbone(str(copied))
    assert str(copied) in str(error.value)
    assert "\n" not in str(error.value)


def change(folder, name, **values):
    """Change values in a JSON file of a folder; return the file."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_mean": None}, "image_mean is None; expected one number or three"),
        ({"image_mean": [0.5] * 4, "image_std": [0.5] * 4}, "image_mean is .*; expected one number or three"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is .*; expected numbers above 0"),
        ({"image_std": 0}, "image_std is 0; expected numbers above 0"),
        ({"rescale_factor": 0}, "rescale_factor is 0; expected a number above 0"),
        ({"rescale_factor": None}, "rescale_factor is None; expected a number above 0"),
    ],
)
def test_unusable_constants_of_the_image_processor_are_named(copied, values, message):
    path = change(files(copied, "preprocessor_config.json")[0].parent, "preprocessor_config.json", **values)
    with pytest.raises(ModelError, match=message) as error:
        load_encoder(str(copied))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("values", [{"size": None}, {"size": {"shortest_edge": "x"}}, {"patch_size": 0}])
def test_sizes_that_no_picture_can_have_are_errors_of_the_folder(copied, values):
    change(files(copied, "preprocessor_config.json")[0].parent, "preprocessor_config.json", **values)
    try:
        encoder = load_encoder(str(copied))  # some families take their sizes from elsewhere
    except ModelError as error:
        assert str(copied) in str(error)
    else:
        encoder.image(picture(50, 40))


def test_one_constant_counts_for_all_channels(copied):
    """transformers allows it."""
    found = []
    for mean, std in ((0.5, 0.25), ([0.5] * 3, [0.25] * 3)):
        change(
            files(copied, "preprocessor_config.json")[0].parent,
            "preprocessor_config.json",
            image_mean=mean,
            image_std=std,
        )
        encoder = load_encoder(str(copied))
        image = encoder.image(np.full((40, 40, 3), 9, np.uint8))
        found.append(encoder.views([image], [0], encoder.texts(["red"])).batch([0], CPU)["pixel_values"])
    assert torch.equal(*found)


def test_a_damaged_configuration_is_named_without_the_weights(copied):
    parts = [path.parent for path in files(copied, "config.json")]
    for part in parts if len(parts) == 1 else set(parts) - {copied}:
        before = (part / "config.json").read_text()
        path = change(part, "config.json", hidden_size="x", text_config=5, vision_config=[])
        with pytest.raises(ModelError, match="cannot be read as a configuration of") as error:
            load_encoder(str(copied))
        assert str(path) in str(error.value)
        path.write_text(before)


@pytest.mark.parametrize("patch", [[16], [], "x", 0, -3])
def test_patches_of_no_size_are_errors_of_the_folder_without_the_weights(copied, patch):
    for path in files(copied, "config.json"):
        config = json.loads(path.read_text())
        change(path.parent, "config.json", **(config | {"patch_size": patch}))
        if isinstance(vision := config.get("vision_config"), dict):
            change(path.parent, "config.json", vision_config=vision | {"patch_size": patch})
    try:
        encoder = load_encoder(str(copied))  # some families take their sizes from elsewhere
    except ModelError as error:
        assert str(copied) in str(error)
        assert "\n" not in str(error)
    else:
        encoder.image(picture(50, 40))
