import json

import pytest
import torch
from transformers import BertConfig, BertTokenizer

from feddat.models.albef.checkpoint import interpolate_positions, load_published, read_checkpoint
from feddat.models.albef.convert import convert
from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.catalog import load_backbone
from helpers import make_vocabulary, tiny_albef_config

LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
FUSING = (*LAYER, *(name.replace("attention", "crossattention") for name in LAYER[:5]))
VOCABULARY = len(make_vocabulary())


def shape(name: str, kind: str) -> tuple[int, ...]:
    if kind == "bias" or "LayerNorm" in name or "norm" in name:
        return (96,) if "qkv" in name else (128,) if "intermediate" in name or "fc1" in name else (32,)
    outer, inner = 32, 32
    if "intermediate" in name or "fc1" in name:
        outer = 128
    elif "fc2" in name or (name.endswith("output.dense") and "attention" not in name):
        inner = 128
    elif "qkv" in name:
        outer = 96
    return outer, inner


def linear(names, prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{n}.{kind}": torch.randn(shape(n, kind)) for n in names for kind in ("weight", "bias")}


def bert(prefix: str, plain: int, fusing: int) -> dict[str, torch.Tensor]:
    state = {
        f"{prefix}.embeddings.position_ids": torch.arange(16)[None],
        f"{prefix}.embeddings.word_embeddings.weight": torch.randn(VOCABULARY, 32),
        f"{prefix}.embeddings.position_embeddings.weight": torch.randn(16, 32),
        f"{prefix}.embeddings.token_type_embeddings.weight": torch.randn(2, 32),
    } | linear(["LayerNorm"], f"{prefix}.embeddings")
    for i in range(plain + fusing):
        state |= linear(LAYER if i < plain else FUSING, f"{prefix}.encoder.layer.{i}")
    return state


def words(prefix: str) -> dict[str, torch.Tensor]:
    bias = torch.randn(VOCABULARY)
    return linear(["transform.dense", "transform.LayerNorm"], f"{prefix}.cls.predictions") | {
        f"{prefix}.cls.predictions.bias": bias,
        f"{prefix}.cls.predictions.decoder.bias": bias,
        f"{prefix}.cls.predictions.decoder.weight": torch.randn(VOCABULARY, 32),
    }


def published(kind: str, grid: int = 2) -> dict[str, torch.Tensor]:
    """The names that the published files have, on tensors of the tiny model's sizes."""
    torch.manual_seed(0)
    vision = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    state = {
        "visual_encoder.cls_token": torch.randn(1, 1, 32),
        "visual_encoder.pos_embed": torch.randn(1, 1 + grid**2, 32),
        "visual_encoder.patch_embed.proj.weight": torch.randn(32, 3, 16, 16),
        "visual_encoder.patch_embed.proj.bias": torch.randn(32),
    } | linear(["norm"], "visual_encoder")
    for i in range(2):
        state |= linear(vision, f"visual_encoder.blocks.{i}")
    if kind == "finetuned":
        return state | bert("text_encoder", 2, 2) | bert("text_decoder.bert", 0, 2) | words("text_decoder")
    momentum = {name.replace("visual_encoder", "visual_encoder_m"): value for name, value in state.items()}
    extra = {"temp": torch.tensor(0.07), "image_queue": torch.randn(4, 8), "itm_head.weight": torch.randn(2, 32)}
    return state | bert("text_encoder.bert", 2, 2) | words("text_encoder") | momentum | extra


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
        (lambda s: s.pop("visual_encoder.norm.weight"), r"lacks .*1 tensor\(s\): albef.vision.layernorm.weight"),
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
        ({"model": {"visual_encoder.pos_embed": torch.ones(1, 5, 32)}, "config": Evil()}, "cannot be read as tensors"),
        ({"model": {"weight": torch.ones(1)}}, "no visual_encoder.pos_embed; expected a checkpoint of ALBEF"),
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
    with pytest.raises(ModelError, match=r"x.pth: cannot be read"):
        read_checkpoint(path)


@pytest.fixture
def bert_folder(tmp_path):
    folder = tmp_path / "bert"
    BertTokenizer(vocab=make_vocabulary()).save_pretrained(folder)
    text = tiny_albef_config().text_config.to_dict()
    BertConfig(**text).save_pretrained(folder)
    return folder


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
    with pytest.raises(ModelError, match="exists already; expected a new one"):
        convert(tmp_path / "x.pth", bert_folder, bert_folder)
    config = json.loads((bert_folder / "config.json").read_text())
    (bert_folder / "config.json").write_text(json.dumps(config | {"model_type": "vit"}))
    with pytest.raises(ModelError, match="model_type is 'vit'; expected 'bert'"):
        convert(tmp_path / "x.pth", bert_folder, tmp_path / "folder")
