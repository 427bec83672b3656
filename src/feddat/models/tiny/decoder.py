"""Small decoder vision-language models, each with the kind of tokenizer, chat template and image processor it uses.

Idefics3 and SmolVLM resize a picture to twice ``image`` and cut it into tiles. The Qwen models keep its shape, with up
to (1.5 · ``image``)² pixels. The others make it a square of side ``image``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from feddat.models.tiny.settings import TinySettings
from feddat.models.tiny.weights import save_random
from feddat.models.tiny.words import byte_tokenizer, piece_tokenizer

#: Maximum number of positions; they are computed, not learned.
_POSITIONS = 2048

# Modelled on the published templates of the families: speaker, picture before words, end of a turn.
_SMOLVLM_CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_QWEN_CHAT = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LLAVA_CHAT = (
    "{% for message in messages %}{{ message['role'] | upper }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def make_smolvlm(folder: Path, settings: TinySettings, words: Sequence[str], family: str = "smolvlm") -> None:
    """Write a SmolVLM or, depending on ``family``, an Idefics3. They read a picture as four tiles and as a whole."""
    special = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _fast(
        byte_tokenizer(words), special, bos_token="<|im_start|>", eos_token="<end_of_utterance>", pad_token="<pad>"
    )
    patch = max(1, settings.patch // 2)
    config = {
        "text_config": {"model_type": "llama", **_language(settings, tokenizer)},
        "vision_config": settings.stack() | {"image_size": settings.image, "patch_size": patch},
        "scale_factor": 2,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    kinds: dict[str, Any] = {
        "smolvlm": transformers.SmolVLMImageProcessorPil,
        "idefics3": transformers.Idefics3ImageProcessorPil,
    }
    images = kinds[family](size={"longest_edge": 2 * settings.image}, max_image_size={"longest_edge": settings.image})
    tokens = (settings.image // patch) ** 2 // 4
    _write(
        folder, settings, family, config, images, tokenizer, "Idefics3Processor", _SMOLVLM_CHAT,
        image_seq_len=tokens,
    )  # fmt: skip


def make_qwen_vl(folder: Path, settings: TinySettings, words: Sequence[str], family: str = "qwen2_vl") -> None:
    """Write a Qwen2-VL, Qwen2.5-VL or Qwen3-VL, depending on ``family``; ``patch`` x ``patch`` pixels are one token."""
    special = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _fast(byte_tokenizer(words), special, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    number = tokenizer.convert_tokens_to_ids
    width, inner = settings.hidden, settings.intermediate
    half = width // settings.heads // 2
    axes = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]  # time, height and width, as published
    text = _language(settings, tokenizer) | {"rope_scaling": {"rope_type": "default", "mrope_section": axes}}
    vision: dict[str, Any] = {"depth": settings.layers, "num_heads": settings.heads, "in_channels": 3}
    vision |= {"patch_size": settings.patch // 2, "spatial_merge_size": 2, "temporal_patch_size": 2}
    own: dict[str, dict[str, Any]] = {
        "qwen2_vl": {"embed_dim": width, "hidden_size": width, "mlp_ratio": 4},
        "qwen2_5_vl": {
            "hidden_size": width, "out_hidden_size": width, "intermediate_size": inner,
            "window_size": 2 * settings.patch, "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            "hidden_size": width, "out_hidden_size": width, "intermediate_size": inner,
            "num_position_embeddings": (2 * settings.image // settings.patch) ** 2, "deepstack_visual_indexes": [0],
        },
    }  # fmt: skip
    if family == "qwen3_vl":
        text["head_dim"] = width // settings.heads
    config = {
        "text_config": text,
        "vision_config": vision | own[family],
        "image_token_id": number("<|image_pad|>"),
        "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"),
        "vision_end_token_id": number("<|vision_end|>"),
    }
    images = transformers.Qwen2VLImageProcessorPil(
        size={"shortest_edge": settings.patch**2, "longest_edge": (3 * settings.image // 2) ** 2},
        patch_size=settings.patch // 2,
        merge_size=2,
        temporal_patch_size=2,
    )
    name = "Qwen3VLProcessor" if family == "qwen3_vl" else "Qwen2VLProcessor"
    _write(folder, settings, family, config, images, tokenizer, name, _QWEN_CHAT)


def make_paligemma(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a PaliGemma 2: full attention in prompts, a window of four in every other layer, and no chat template."""
    tokenizer = _pieces(words)
    text = _language(settings, tokenizer) | {"model_type": "gemma2", "sliding_window": 4}
    width = settings.hidden // settings.heads
    text |= {"head_dim": width, "query_pre_attn_scalar": width}
    config = {
        "text_config": text,
        "vision_config": settings.stack()
        | settings.pictures()
        | {"model_type": "siglip_vision_model", "vision_use_head": False, "projection_dim": settings.hidden},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "projection_dim": settings.hidden,
        "hidden_size": settings.hidden,
        **_ends(tokenizer),
    }
    images: Any = transformers.SiglipImageProcessorPil(size={"height": settings.image, "width": settings.image})
    images.image_seq_length = (settings.image // settings.patch) ** 2
    _write(folder, settings, "paligemma", config, images, tokenizer, "PaliGemmaProcessor", None)


def make_llava(folder: Path, settings: TinySettings, words: Sequence[str]) -> None:
    """Write a LLaVA 1.5: LLaMA, and CLIP's image tower, whose second-to-last layer is used."""
    tokenizer = _pieces(words)
    config = {
        "text_config": {"model_type": "llama", **_language(settings, tokenizer)},
        "vision_config": settings.stack()
        | settings.pictures()
        | {"model_type": "clip_vision_model", "projection_dim": settings.hidden},
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": (settings.image // settings.patch) ** 2,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    side = settings.image
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    _write(
        folder, settings, "llava", config, images, tokenizer, "LlavaProcessor", _LLAVA_CHAT,
        patch_size=settings.patch, vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip


#: Family -> function that writes its folder.
DECODERS: dict[str, Callable[[Path, TinySettings, Sequence[str]], None]] = {
    "smolvlm": make_smolvlm,
    "idefics3": partial(make_smolvlm, family="idefics3"),
    "qwen2_vl": make_qwen_vl,
    "qwen2_5_vl": partial(make_qwen_vl, family="qwen2_5_vl"),
    "qwen3_vl": partial(make_qwen_vl, family="qwen3_vl"),
    "paligemma": make_paligemma,
    "llava": make_llava,
}


def _language(settings: TinySettings, tokenizer: Any) -> dict[str, Any]:
    """Return the configuration of a language model. An even number of heads shares keys and values in pairs."""
    sharing = settings.heads // 2 if settings.heads % 2 == 0 else 1
    return (
        settings.stack()
        | {"num_key_value_heads": sharing, "max_position_embeddings": _POSITIONS, "vocab_size": len(tokenizer)}
        | _ends(tokenizer)
    )


def _ends(tokenizer: Any) -> dict[str, Any]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def _pieces(words: Sequence[str]) -> PreTrainedTokenizerFast:
    return _fast(
        piece_tokenizer(words), ["<image>"], bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


def _fast(tokenizer: Tokenizer, special: Sequence[str], **named: str) -> PreTrainedTokenizerFast:
    made: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = made(
        tokenizer_object=tokenizer, additional_special_tokens=[name for name in special if name not in named.values()],
        **named,
    )  # fmt: skip
    return fast


def _write(
    folder: Path,
    settings: TinySettings,
    family: str,
    config: dict[str, Any],
    images: Any,
    tokenizer: PreTrainedTokenizerFast,
    processor: str,
    chat: str | None,
    **values: Any,
) -> None:
    """Write all files of a folder; ``values`` go to the processor's configuration."""
    kind: Any = CONFIG_MAPPING[family]
    auto: Any = AutoModelForImageTextToText
    save_random(lambda: auto.from_config(kind(tie_word_embeddings=False, **config)), settings.seed, folder)
    images.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if chat is not None:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    text = json.dumps({"processor_class": processor} | values, indent=2)
    (folder / "processor_config.json").write_text(text, encoding="utf-8")
