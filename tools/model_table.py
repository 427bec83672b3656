"""Print the table of published model sizes in docs/models.md: adapter sites, parameters trained and sent.

    python tools/model_table.py

Models are built on PyTorch's meta device from the configurations of the published checkpoints: no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import (
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

from feddat.adapters.methods import build_adapters, count_parameters
from feddat.algorithms import ALGORITHMS
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.two_towers import TwoTowers
from feddat.models.vilt_bert import ViltBertModel
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


#: Name in print -> what returns the frozen model and a client's head.
MODELS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "ViLT-B/32": _vilt,
    "ViLT-B/32 behind BERT-base": _vilt_bert,
    "ALBEF": _albef,
    "BLIP base": _blip,
    "CLIP ViT-B/32": _clip,
    "CLIP ViT-B/16": lambda: _clip(patch_size=16),
    "SigLIP base, 224 px": _siglip,
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
    lines = ["| " + " | ".join(HEADER) + " |", "| --- |" + " ---: |" * (len(HEADER) - 1)]
    lines += ["| " + " | ".join(row(name)) + " |" for name in MODELS]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
