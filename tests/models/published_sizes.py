"""Print the table of published model sizes in docs/models.md: adapter sites, parameters trained and sent.

    python tests/models/published_sizes.py

Models are built on PyTorch's meta device from the configurations of the published checkpoints: no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    BertConfig,
    BertModel,
    BlipConfig,
    BlipForQuestionAnswering,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
    ViltConfig,
    ViltModel,
)

from feddat.adapters.build import build_adapters, count_parameters
from feddat.algorithms import ALGORITHMS
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.two_towers.backbone import TwoTowers
from feddat.models.vilt_bert.backbone import ViltBertModel
from feddat.report.markdown_table import markdown_table
from feddat.tasks import make_task

#: Answers of a classifying client, as in the paper.
ANSWERS = [str(number) for number in range(100)]
HEADER = ("model", "backbone", "sites", "head", "trained by FedDAT", "trained by FedAvg", "sent each way")


def _classifier(width: int) -> nn.Module:
    return make_task("vqa", ANSWERS).build_head(width)


def _vilt() -> tuple[nn.Module, nn.Module]:
    return ViltModel(ViltConfig()), _classifier(768)


def _vilt_bert() -> tuple[nn.Module, nn.Module]:
    bert = BertModel(BertConfig(), add_pooling_layer=False)
    return ViltBertModel(bert, ViltModel(ViltConfig())), _classifier(768)


def _blip() -> tuple[nn.Module, nn.Module]:
    model = BlipForQuestionAnswering(BlipConfig(vision_config={"image_size": 384}))
    words = model.text_decoder.cls.predictions
    model.text_decoder.cls = nn.Identity()
    return model, nn.Sequential(words.transform, nn.Linear(768, words.decoder.out_features))


def _albef() -> tuple[nn.Module, nn.Module]:
    whole = AlbefForQuestionAnswering(AlbefConfig())
    return whole.albef, whole.head


def _clip(**vision: int) -> tuple[nn.Module, nn.Module]:
    return TwoTowers(CLIPModel(CLIPConfig(vision_config=vision))), _classifier(3 * 512)


def _siglip() -> tuple[nn.Module, nn.Module]:
    return TwoTowers(SiglipModel(SiglipConfig())), _classifier(3 * 768)


#: SigLIP-so400m with 14 px patches, as in SmolVLM and PaliGemma.
_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
#: Name -> ``model_type`` and configuration of a published decoder. Its size is checked against :data:`PARAMETERS`.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SmolVLM-Instruct": (
        "idefics3",
        {
            "vision_config": _SO400M | {"image_size": 384},
            "text_config": {
                "model_type": "llama",
                "hidden_size": 2048,
                "intermediate_size": 8192,
                "num_hidden_layers": 24,
                "num_attention_heads": 32,
                "vocab_size": 49155,
            },
            "scale_factor": 3,
            "tie_word_embeddings": False,
        },
    ),
    "Qwen3-VL-2B": (
        "qwen3_vl",
        {
            "vision_config": {
                "depth": 24,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_heads": 16,
                "out_hidden_size": 2048,
                "patch_size": 16,
                "deepstack_visual_indexes": [5, 11, 17],
            },
            "text_config": {
                "hidden_size": 2048,
                "intermediate_size": 6144,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "vocab_size": 151936,
            },
            "tie_word_embeddings": True,
        },
    ),
    "Qwen2.5-VL-3B": (
        "qwen2_5_vl",
        {
            "vision_config": {
                "depth": 32,
                "hidden_size": 1280,
                "intermediate_size": 3420,
                "num_heads": 16,
                "out_hidden_size": 2048,
                "patch_size": 14,
            },
            "text_config": {
                "hidden_size": 2048,
                "intermediate_size": 11008,
                "num_hidden_layers": 36,
                "num_attention_heads": 16,
                "num_key_value_heads": 2,
                "vocab_size": 151936,
            },
            "tie_word_embeddings": True,
        },
    ),
    "PaliGemma 2 3B, 224 px": (
        "paligemma",
        {
            "vision_config": _SO400M
            | {"model_type": "siglip_vision_model", "image_size": 224, "vision_use_head": False},
            "text_config": {
                "model_type": "gemma2",
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "vocab_size": 257216,
            },
            "projection_dim": 2304,
            "tie_word_embeddings": True,
        },
    ),
    "LLaVA-1.5-7B": (
        "llava",
        {
            "vision_config": {
                "model_type": "clip_vision_model",
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "patch_size": 14,
                "image_size": 336,
            },
            "text_config": {
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "vocab_size": 32064,
            },
            "tie_word_embeddings": False,
        },
    ),
}
#: Parameters of the published checkpoints.
PARAMETERS = {
    "SmolVLM-Instruct": 2_246_272_880,
    "Qwen3-VL-2B": 2_127_532_032,
    "Qwen2.5-VL-3B": 3_754_622_976,
    "PaliGemma 2 3B, 224 px": 3_032_242_416,
    "LLaVA-1.5-7B": 7_063_427_072,
}


def _decoder(name: str) -> tuple[nn.Module, nn.Module]:
    family, settings = DECODERS[name]
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model(family, **settings))
    if (size := sum(parameter.numel() for parameter in model.parameters())) != PARAMETERS[name]:
        raise ValueError(f"{name}: {size:,} parameters, but the published one has {PARAMETERS[name]:,}")
    return model, nn.Identity()  # its vocabulary head is frozen


#: Printed name -> function that returns the frozen model and a client's head.
MODELS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "ViLT-B/32": _vilt,
    "ViLT-B/32 behind BERT-base": _vilt_bert,
    "ALBEF": _albef,
    "BLIP base": _blip,
    "CLIP ViT-B/32": _clip,
    "CLIP ViT-B/16": lambda: _clip(patch_size=16),
    "SigLIP base, 224 px": _siglip,
    **{name: partial(_decoder, name) for name in DECODERS},
}


def row(name: str) -> tuple[str, ...]:
    """Return one model's row."""
    with torch.device("meta"):
        model, head = MODELS[name]()
        size = sum(parameter.numel() for parameter in model.parameters())
        adapters = build_adapters(model)
    counts = {
        method: count_parameters(
            adapters,
            trains=ALGORITHMS[method].trains,
            shares=ALGORITHMS[method].shares,
            head=head.requires_grad_(True),
        )
        for method in ("feddat", "fedavg")
    }
    numbers = (
        size,
        len(adapters.sites),
        sum(parameter.numel() for parameter in head.parameters()),
        counts["feddat"]["trainable"],
        counts["fedavg"]["trainable"],
        counts["feddat"]["communicated"],
    )
    return name, *(f"{number:,}" for number in numbers)


def table() -> str:
    """Return the table in Markdown."""
    return markdown_table(HEADER, map(row, MODELS))


if __name__ == "__main__":
    print(table(), end="")
