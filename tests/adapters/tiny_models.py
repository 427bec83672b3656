"""Tiny random transformers models, one for each kind of architecture that adapters support."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}


@dataclass(frozen=True)
class Case:
    name: str
    make: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Tensor]]
    read: Callable[[Any], Tensor]
    sites: tuple[str, ...]
    lora_sites: int

    def build(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """Return the same random model each time, in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.make().to(dtype).eval()

    def run(self, model: nn.Module) -> Tensor:
        """Return the model's output on one fixed batch."""
        return self.read(self.forward(model))

    def forward(self, model: nn.Module, **options: Any) -> Any:
        # Stock ViLT draws the order of its patches at random.
        with torch.random.fork_rng():
            torch.manual_seed(2)
            return model(**self.batch(next(model.parameters()).dtype), **options)

    def batch(self, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            batch = self.inputs()
        return {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}


def _tokens(length: int = 5) -> Tensor:
    return torch.randint(6, 40, (2, length))


def _images(*shape: int) -> Tensor:
    return torch.randn(2, *shape)


def _vilt() -> nn.Module:
    return hf.ViltModel(hf.ViltConfig(**SIZES, vocab_size=50, image_size=32, patch_size=16))


def _bert() -> nn.Module:
    return hf.BertModel(hf.BertConfig(**SIZES, vocab_size=50))


def _vit() -> nn.Module:
    return hf.ViTModel(hf.ViTConfig(**SIZES, image_size=32, patch_size=16))


def _clip() -> nn.Module:
    text = {**SIZES, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _smolvlm() -> nn.Module:
    text = {**SIZES, "vocab_size": 50, "num_key_value_heads": 4, "model_type": "llama", "pad_token_id": 0}
    text |= {"bos_token_id": 1, "eos_token_id": 2}
    vision = {**SIZES, "image_size": 32, "patch_size": 16}
    config = hf.SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=5, pad_token_id=0, use_cache=False
    )
    return hf.SmolVLMForConditionalGeneration(config)


def _smolvlm_inputs() -> dict[str, Tensor]:
    # The scale factor of 2 folds the 2 × 2 patches into one image token.
    tokens = _tokens()
    tokens[:, 1] = 5
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": _images(1, 3, 32, 32)}


CASES = [
    Case(
        "vilt",
        _vilt,
        lambda: {"input_ids": _tokens(), "pixel_values": _images(3, 32, 32)},
        lambda out: out.last_hidden_state,
        ("encoder.layer.0.output", "encoder.layer.1.output"),
        4,
    ),
    Case(
        "bert",
        _bert,
        lambda: {"input_ids": _tokens()},
        lambda out: out.last_hidden_state,
        ("encoder.layer.0.output", "encoder.layer.1.output"),
        4,
    ),
    Case(
        "vit",
        _vit,
        lambda: {"pixel_values": _images(3, 32, 32)},
        lambda out: out.last_hidden_state,
        ("layers.0", "layers.1"),
        4,
    ),
    Case(
        "clip",
        _clip,
        lambda: {"input_ids": _tokens(), "pixel_values": _images(3, 32, 32)},
        lambda out: torch.cat([out.text_embeds, out.image_embeds]),
        (
            "text_model.encoder.layers.0",
            "text_model.encoder.layers.1",
            "vision_model.encoder.layers.0",
            "vision_model.encoder.layers.1",
        ),
        8,
    ),
    Case(
        "smolvlm",
        _smolvlm,
        _smolvlm_inputs,
        lambda out: out.logits,
        ("model.text_model.layers.0.mlp", "model.text_model.layers.1.mlp"),
        4,
    ),
]
