"""A published checkpoint of ALBEF and a BERT folder in their genuine layouts, in the tiny model's sizes."""

from pathlib import Path

import torch
from transformers import BertConfig, BertTokenizer

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
    """Return random tensors of the tiny model's sizes, under the names that the published files have."""
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


def write_bert(folder: Path) -> Path:
    """Write BERT's configuration and tokenizer, without weights."""
    BertTokenizer(vocab=make_vocabulary()).save_pretrained(folder)
    text = tiny_albef_config().text_config.to_dict()
    BertConfig(**text).save_pretrained(folder)
    return folder
