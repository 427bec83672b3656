"""Pretraining: the content of batches, resumed runs, settings, and the quality of the bundled model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from feddat.config import ConfigError
from feddat.data.mini.concepts import CONCEPTS
from feddat.data.mini.scene import EMPTY
from feddat.data.mini.vocabulary import vocabulary
from feddat.models import load_backbone
from feddat.pretrain.batches import IGNORE, BatchMaker
from feddat.pretrain.quality import identifiable_slots, measure
from feddat.pretrain.settings import PretrainSettings
from feddat.pretrain.train import PretrainError, parse_settings, pretrain
from feddat.pretrain.vilt import ViltObjective

TINY = ["hidden=32", "heads=2", "layers=1", "batch_size=16", "every=2", "jobs=1", "simple_steps=2", "warmup=2"]


def maker(batch_size: int = 64) -> BatchMaker:
    return BatchMaker(vocabulary(), len(CONCEPTS), batch_size, seed=0, modes=ViltObjective.modes)


def test_labels_say_what_the_scene_shows() -> None:
    words = vocabulary()
    (batch,) = maker().training(0, (1, 2, 3, 4), parts=1)
    ids = batch.inputs["input_ids"]
    masked = batch.word != IGNORE
    assert (ids[masked] == words.index("[MASK]")).all()
    assert (ids[:, 0] == words.index("[CLS]")).all()
    names = [concept.name for concept in CONCEPTS]
    rows, columns = (batch.mention_cell != IGNORE).nonzero(as_tuple=True)
    assert len(rows) > 20
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        cell = int(batch.mention_cell[row, column])
        assert words[ids[row, column]] == names[batch.objects[row, cell]]
        assert batch.mention_colour[row, column] == batch.colours[row, cell]
    assert ((batch.objects == len(CONCEPTS)).sum(1) < 4).all(), "a scene without objects"
    assert EMPTY not in batch.objects


def test_a_step_has_one_batch_whatever_came_before() -> None:
    first = [part.inputs["input_ids"] for part in maker().training(7, (2,), parts=3)]
    fresh = maker()
    fresh.training(3, (2,), parts=3)
    second = [part.inputs["input_ids"] for part in fresh.training(7, (2,), parts=3)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    lengths = [part.shape[1] for part in first]
    assert lengths == sorted(lengths)


def test_an_object_is_identifiable_only_by_its_place() -> None:
    from feddat.data.mini.captions import Text

    text = Text().say("a").slot("dog", "object", 0).say("at the").slot("top", "place").slot("left", "place")
    text.say("and a").slot("cat", "object", 1).say("on").slot("red", "colour")
    assert identifiable_slots(text) == [1, 4, 5, 10]


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = parse_settings([*TINY, "steps=6"])
    pretrain(tmp_path / "whole", whole)

    class Stop(Exception):
        pass

    def interrupt(event: dict[str, object]) -> None:
        if event["step"] == 4:
            raise Stop

    with pytest.raises(Stop):
        pretrain(tmp_path / "cut", whole, interrupt)
    pretrain(tmp_path / "cut", whole)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    backbone = load_backbone(str(tmp_path / "cut" / "model"))
    assert backbone.feature_dim == 32
    card = (tmp_path / "cut" / "model" / "README.md").read_text()
    assert "96 scenes" in card
    with pytest.raises(ConfigError, match="other settings"):
        pretrain(tmp_path / "cut", parse_settings([*TINY, "steps=8"]))


@pytest.mark.slow  # two processes load their libraries
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    events: list[dict[str, object]] = []
    pretrain(tmp_path, parse_settings([*TINY, "steps=2", "jobs=2"]), events.append)
    assert [event["step"] for event in events] == [2]
    assert json.loads((tmp_path / "model" / "recipe.json").read_text())["settings"]["jobs"] == 2


@pytest.mark.slow  # two processes load their libraries
@pytest.mark.parametrize(
    ("blocked", "message"), [("checkpoint.safetensors", "a process failed"), ("checkpoint.tmp", "checkpoint.tmp: ")]
)
def test_an_error_in_a_process_is_one_line(tmp_path: Path, blocked: str, message: str) -> None:
    (tmp_path / blocked).mkdir()
    with pytest.raises(PretrainError) as raised:
        pretrain(tmp_path, parse_settings([*TINY, "steps=2", "jobs=2"]))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_torn_or_foreign_checkpoint_is_named(tmp_path: Path) -> None:
    settings = parse_settings([*TINY, "steps=2"])
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(b"half of it")
    with pytest.raises(PretrainError, match=f"{file}: .*damaged"):
        pretrain(tmp_path, settings)
    save_file({"model.other": torch.zeros(2)}, file, metadata={"step": "1", "seconds": "2"})
    with pytest.raises(PretrainError, match=f"{file}: not a checkpoint of this run"):
        pretrain(tmp_path, settings)


def test_a_checkpoint_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.tmp").mkdir()
    with pytest.raises(PretrainError, match=r"checkpoint\.tmp: .*continues"):
        pretrain(tmp_path, parse_settings([*TINY, "steps=2"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stepz=3", "unknown pretraining setting 'stepz=3'"),
        ("steps=x", "steps: expected int, got 'x'"),
        ("fusion_layer=2", "unknown pretraining setting"),
        ("family=bert", "family=bert: expected one of vilt, albef"),
        ("precision=int8", "precision=int8: expected one of auto, fp32, bf16"),
        ("jobs=0", "jobs=0: expected a number of at least 1"),
        ("every=0", "every=0: expected a number of at least 1"),
        ("seed=-1", "seed=-1: expected a number of at least 0"),
        ("lr=nan", "lr=nan: expected a number of at least 0"),
        ("weight_decay=-1", "weight_decay=-1.0: expected a number of at least 0"),
        ("batch_size=4", "batch_size=4: expected at least 6, parts=3 \\* jobs=2"),
        ("hidden=7", "hidden=7: expected a multiple of 20, to suit 4 and heads=5"),
        ("hidden=10", "hidden=10: expected a multiple of 20"),
        ("patch=64", "patch=64: expected a divisor of 32"),
    ],
)
def test_bad_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings([override])
    with pytest.raises(ConfigError, match="not a multiple"):
        parse_settings(["batch_size=5", "jobs=2"])


def test_numbers_that_can_be_zero() -> None:
    settings = parse_settings(["warmup=0", "simple_steps=0", "seed=0", "weight_decay=0"])
    assert settings.learning_rate(0) == settings.lr
    assert parse_settings(["family=albef", "frozen=0", "fusion_layer=0"]).values()["frozen"] == 0


def test_settings_that_make_no_model_are_named_before_anything_is_written(tmp_path: Path) -> None:
    settings = parse_settings(["family=albef", "jobs=2", "fusion_layer=9"])
    with pytest.raises(ConfigError, match="fusion_layer=9: expected 0 to 3"):
        pretrain(tmp_path / "new", settings)
    assert not (tmp_path / "new").exists()


def test_positions_are_as_loud_as_patches() -> None:
    model = ViltObjective.new(parse_settings(TINY)).vilt.vilt
    (batch,) = maker().training(0, (1, 2, 3, 4), parts=1)
    with torch.no_grad():
        patches = model.embeddings.patch_embeddings(batch.inputs["pixel_values"]).std()
        positions = model.embeddings.position_embeddings[:, 1:].std()
    assert 0.3 < positions / patches < 3


def test_the_bundled_model_keeps_its_promised_quality() -> None:
    model = ViltObjective.new(PretrainSettings())
    backbone = load_backbone("vilt-mini")
    from transformers import ViltForMaskedLM

    from feddat.models.vilt.fast import make_fast

    model.vilt = make_fast(ViltForMaskedLM.from_pretrained(_bundled_folder()))
    quality = measure(model, maker(256), 512, "test")
    assert quality["word/object"] >= 80
    assert quality["word/colour"] >= 90
    assert quality["word/relation"] >= 75
    assert backbone.feature_dim == 160
    published = json.loads((_bundled_folder() / "quality.json").read_text())
    assert published["match"] >= 85
    assert np.isclose(published["word/object"], quality["word/object"], atol=3)


def _bundled_folder() -> Path:
    import feddat.models

    return Path(feddat.models.__file__).parent / "assets" / "vilt-mini"
