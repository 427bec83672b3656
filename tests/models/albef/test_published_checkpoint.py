import json

import pytest
import torch

from feddat.models.albef.checkpoint import interpolate_positions, load_published, read_checkpoint
from feddat.models.albef.convert import convert
from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.catalog import load_backbone
from helpers import tiny_albef_config
from models.albef.published_files import published, write_bert


def load(state, **config) -> tuple[dict[str, torch.Tensor], object]:
    model = AlbefForQuestionAnswering(tiny_albef_config(**config))
    report = load_published(model, state, "test.pth")
    return model.state_dict(), report


def test_a_finetuned_checkpoint_fills_every_tensor():
    state = published("finetuned")
    own, report = load(state)
    assert report.decoder == "checkpoint"
    assert report.unused == ("text_decoder.bert.embeddings.position_ids", "text_encoder.embeddings.position_ids")
    for new, old in {
        "albef.vision.embeddings.cls_token": "visual_encoder.cls_token",
        "albef.vision.layers.1.layernorm_before.weight": "visual_encoder.blocks.1.norm1.weight",
        "albef.vision.layers.1.attention.o_proj.bias": "visual_encoder.blocks.1.attn.proj.bias",
        "albef.vision.layernorm.bias": "visual_encoder.norm.bias",
        "albef.text_decoder.encoder.layer.0.output.dense.bias": "text_decoder.bert.encoder.layer.0.output.dense.bias",
        "head.decoder.bias": "text_decoder.cls.predictions.bias",
        "head.transform.LayerNorm.weight": "text_decoder.cls.predictions.transform.LayerNorm.weight",
    }.items():  # fmt: skip
        assert torch.equal(own[new], state[old]), new


def test_query_key_and_value_are_the_thirds_of_one_matrix():
    state = published("finetuned")
    own, _ = load(state)
    joint = state["visual_encoder.blocks.0.attn.qkv.weight"]
    for i, name in enumerate(("q_proj", "k_proj", "v_proj")):
        assert torch.equal(own[f"albef.vision.layers.0.attention.{name}.weight"], joint[32 * i : 32 * i + 32])


def test_without_a_decoder_it_starts_as_the_fusion_layers():
    state = published("pretrained")
    own, report = load(state)
    assert report.decoder == "fusion layers"
    for i in range(2):
        for name in ("crossattention.self.query.weight", "output.LayerNorm.bias"):
            expected = state[f"text_encoder.bert.encoder.layer.{i + 2}.{name}"]
            assert torch.equal(own[f"albef.text_decoder.encoder.layer.{i}.{name}"], expected)
    embeddings = state["text_encoder.bert.embeddings.word_embeddings.weight"]
    assert torch.equal(own["albef.text_decoder.embeddings.word_embeddings.weight"], embeddings)
    assert torch.equal(own["head.decoder.weight"], state["text_encoder.cls.predictions.decoder.weight"])


def test_what_has_no_use_is_reported():
    _, report = load(published("pretrained"))
    assert {"temp", "image_queue", "itm_head.weight", "visual_encoder_m.cls_token"} <= set(report.unused)
    assert not any(name.startswith(("visual_encoder.", "text_encoder.cls")) for name in report.unused)


def test_positions_are_interpolated_to_the_resolution():
    state = published("finetuned", grid=3)
    own, report = load(state)
    assert report.image_size == 48
    assert torch.equal(
        own["albef.vision.embeddings.position_embeddings"], interpolate_positions(state["visual_encoder.pos_embed"], 2)
    )


def test_interpolation_keeps_cls_rows_and_columns():
    # The embedding of row r, column c is (r, c).
    positions = torch.tensor([[[7.0, 7.0], [0, 0], [0, 1], [1, 0], [1, 1]]])
    larger = interpolate_positions(positions, 4)
    assert larger[0, 0].tolist() == [7.0, 7.0]
    grid = larger[0, 1:].view(4, 4, 2)
    assert torch.allclose(grid[..., 0], grid[:, :1, 0]) and torch.allclose(grid[..., 1], grid[:1, :, 1])
    assert torch.allclose(grid[1, 0, 0] + grid[2, 0, 0], torch.tensor(1.0))
    assert interpolate_positions(positions, 2) is positions


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("visual_encoder.norm.weight"),
            r"has no data for 1 tensor\(s\): albef.vision.layernorm.weight",
        ),
        (
            lambda s: s.update({"visual_encoder.norm.weight": torch.ones(3)}),
            r"layernorm.weight has shape \(3,\).*\(32,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    state = published("finetuned")
    change(state)
    with pytest.raises(ModelError, match=message):
        load(state)


class Evil:
    def __reduce__(self):
        return print, ("executed",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": {"visual_encoder.pos_embed": torch.ones(1, 5, 32)}, "config": Evil()},
            "is damaged or holds more than tensors",
        ),
        ({"model": {"weight": torch.ones(1)}}, "no visual_encoder.pos_embed; expected an ALBEF checkpoint"),
        ([1, 2], "no visual_encoder.pos_embed"),
    ],
)
def test_files_that_are_no_checkpoint_are_refused(tmp_path, capsys, content, message):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ModelError, match=message):
        read_checkpoint(tmp_path / "x.pth")
    assert capsys.readouterr().out == ""


def test_damaged_and_missing_files_are_named(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(ModelError, match=r"x.pth: no such file"):
        read_checkpoint(path)
    torch.save([1], path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"x.pth: is damaged or"):
        read_checkpoint(path)


@pytest.fixture
def bert_folder(tmp_path):
    return write_bert(tmp_path / "bert")


@pytest.mark.parametrize("kind", ["finetuned", "pretrained"])
def test_a_converted_folder_loads_with_the_checkpoints_weights(tmp_path, bert_folder, kind):
    state = published(kind)
    torch.save({"model": state, "epoch": 7}, tmp_path / "x.pth")
    report = convert(tmp_path / "x.pth", bert_folder, tmp_path / "folder", image_size=64)
    assert report.image_size == 32
    backbone = load_backbone(str(tmp_path / "folder"))
    assert backbone.family == "albef"
    config = backbone.model.config
    assert (config.fusion_layer, config.decoder_layers, config.vision_config.image_size) == (2, 2, 64)
    loaded = backbone.model.state_dict()
    assert torch.equal(loaded["vision.layernorm.weight"], state["visual_encoder.norm.weight"])
    processor = json.loads((tmp_path / "folder" / "preprocessor_config.json").read_text())
    assert (processor["size"], processor["resample"]) == ({"height": 64, "width": 64}, 3)
    assert processor["image_mean"] == pytest.approx([0.48145466, 0.4578275, 0.40821073])


def test_conversion_refuses_a_used_folder_and_another_model(tmp_path, bert_folder):
    torch.save(published("finetuned"), tmp_path / "x.pth")
    with pytest.raises(ModelError, match="already exists; expected a new or empty folder"):
        convert(tmp_path / "x.pth", bert_folder, bert_folder)
    config = json.loads((bert_folder / "config.json").read_text())
    (bert_folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ModelError, match="model_type is 'vit'; expected 'bert'"):
        convert(tmp_path / "x.pth", bert_folder, tmp_path / "folder")
