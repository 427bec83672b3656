"""Tiny random decoder vision-language models of every supported layout, as folders in Hugging Face layout.

Two layers, hidden size 32, pictures of 32 pixels; tokenizer, chat template and image processor are of the kind that the
family's published folders have. For tests and for trying things out: nothing in them has learned anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

#: Words that the tokenizers know whole; of all others they know the letters.
WORDS = ("what", "is", "the", "color", "red", "blue", "green", "yes", "no", "circle", "square", "two")

_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
_VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
}  # fmt: skip

# In the manner of the families' published templates: who speaks, the picture before the words, how a turn ends.
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


def make_tiny_smolvlm(folder: Path, words: Sequence[str] = (), seed: int = 0, family: str = "smolvlm") -> Path:
    """Write a SmolVLM (or, as ``family``, an Idefics3): a picture becomes tiles of 4 tokens, and one of the whole."""
    special = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>"]
    special += [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = _byte_tokenizer(words, "<end_of_utterance>", "<pad>", special)
    ids = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>"), "pad_token_id": tokenizer.pad_token_id}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {"model_type": "llama", **_TEXT, "vocab_size": len(tokenizer), **ends, "pad_token_id": ids["pad_token_id"]}
    _write(folder, family, seed, text_config=text, vision_config=_VISION | {"patch_size": 8}, scale_factor=2, **ids)
    processor = _processor("Idefics3ImageProcessorPil" if family == "idefics3" else "SmolVLMImageProcessorPil")
    processor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32}).save_pretrained(folder)
    _save_tokenizer(tokenizer, folder, _SMOLVLM_CHAT, "Idefics3Processor", image_seq_len=4)
    return folder


def make_tiny_idefics3(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write an Idefics3, see :func:`make_tiny_smolvlm`."""
    return make_tiny_smolvlm(folder, words, seed, "idefics3")


def make_tiny_qwen2_vl(folder: Path, words: Sequence[str] = (), seed: int = 0, family: str = "qwen2_vl") -> Path:
    """Write a Qwen2-VL (or, as ``family``, a Qwen2.5-VL or Qwen3-VL): pictures keep their shape, 16 pixels a token."""
    special = ["<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = _byte_tokenizer(words, "<|im_end|>", "<|endoftext|>", special)
    number = tokenizer.convert_tokens_to_ids
    ids = {
        "image_token_id": number("<|image_pad|>"), "video_token_id": number("<|video_pad|>"),
        "vision_start_token_id": number("<|vision_start|>"), "vision_end_token_id": number("<|vision_end|>"),
    }  # fmt: skip
    text = _TEXT | {
        "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None, "rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    patch = {"patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2}
    vision: dict[str, Any] = patch | {"depth": 2, "num_heads": 2, "in_channels": 3}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2}
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        vision |= {"window_size": 32, "fullatt_block_indexes": [1]}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 48}
        vision |= {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]}
        text |= {"head_dim": 8}
    _write(folder, family, seed, text_config=text, vision_config=vision, **ids)
    sizes = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    _processor("Qwen2VLImageProcessorPil")(
        size=sizes, patch_size=8, merge_size=2, temporal_patch_size=2
    ).save_pretrained(folder)
    name = "Qwen3VLProcessor" if family == "qwen3_vl" else "Qwen2VLProcessor"
    _save_tokenizer(tokenizer, folder, _QWEN_CHAT, name)
    return folder


def make_tiny_qwen2_5_vl(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a Qwen2.5-VL, see :func:`make_tiny_qwen2_vl`."""
    return make_tiny_qwen2_vl(folder, words, seed, "qwen2_5_vl")


def make_tiny_qwen3_vl(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a Qwen3-VL, see :func:`make_tiny_qwen2_vl`."""
    return make_tiny_qwen2_vl(folder, words, seed, "qwen3_vl")


def make_tiny_paligemma(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a PaliGemma 2: 4 tokens a picture, words after them, both seen by all of the prompt; no chat template."""
    tokenizer = _piece_tokenizer(words, ["<image>"])
    text = _TEXT | {
        "model_type": "gemma2", "vocab_size": len(tokenizer), "head_dim": 8, "sliding_window": 4,
        "query_pre_attn_scalar": 8, "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = _VISION | {"model_type": "siglip_vision_model", "patch_size": 16, "vision_use_head": False}
    vision |= {"projection_dim": 32}
    image = tokenizer.convert_tokens_to_ids("<image>")
    _write(
        folder, "paligemma", seed, text_config=text, vision_config=vision, image_token_id=image, projection_dim=32,
        hidden_size=32, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    processor = _processor("SiglipImageProcessorPil")(size={"height": 32, "width": 32})
    processor.image_seq_length = 4
    processor.save_pretrained(folder)
    _save_tokenizer(tokenizer, folder, None, "PaliGemmaProcessor")
    return folder


def make_tiny_llava(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a LLaVA 1.5: CLIP's image tower, LLaMA, 4 tokens a picture."""
    tokenizer = _piece_tokenizer(words, ["<image>"])
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "model_type": "llama",
        **_TEXT,
        "vocab_size": len(tokenizer),
        **ends,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = _VISION | {"model_type": "clip_vision_model", "patch_size": 16, "projection_dim": 32}
    image = tokenizer.convert_tokens_to_ids("<image>")
    _write(
        folder, "llava", seed, text_config=text, vision_config=vision, image_token_id=image, image_seq_length=4,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    size = {"height": 32, "width": 32}
    _processor("CLIPImageProcessorPil")(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    values = {"patch_size": 16, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    _save_tokenizer(tokenizer, folder, _LLAVA_CHAT, "LlavaProcessor", **values)
    return folder


#: Family -> what writes a folder of it.
MAKERS: Mapping[str, Callable[..., Path]] = {
    "smolvlm": make_tiny_smolvlm,
    "idefics3": make_tiny_idefics3,
    "qwen2_vl": make_tiny_qwen2_vl,
    "qwen2_5_vl": make_tiny_qwen2_5_vl,
    "qwen3_vl": make_tiny_qwen3_vl,
    "paligemma": make_tiny_paligemma,
    "llava": make_tiny_llava,
}


def _write(folder: Path, family: str, seed: int, **config: Any) -> None:
    """Write configuration and random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: Any = CONFIG_MAPPING[family]
        auto: Any = AutoModelForImageTextToText
        model = auto.from_config(kind(tie_word_embeddings=False, **config), dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)


def _processor(name: str) -> Any:
    import transformers

    return getattr(transformers, name)


def _byte_tokenizer(words: Sequence[str], end: str, pad: str, special: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer, as SmolVLM's and Qwen's are: words begin with their space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    merges: dict[tuple[str, str], None] = {}
    for word in (*WORDS, *words):
        if not (word.isascii() and word.isalpha()):
            continue
        for piece in (word, f"Ġ{word}"):
            for cut in range(1, len(piece)):
                merges[piece[:cut], piece[cut]] = None
                vocabulary.setdefault(piece[: cut + 1], len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _fast(tokenizer, eos_token=end, pad_token=pad, additional_special_tokens=list(special))


def _piece_tokenizer(words: Sequence[str], special: Sequence[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer as SentencePiece makes them, LLaMA's and Gemma's: ``▁`` for spaces, ``<s>`` before a text."""
    letters = [chr(number) for number in range(33, 127)]
    pieces = {"<pad>": 0.0, "</s>": 0.0, "<s>": 0.0, "<unk>": 0.0, "▁": -6.0, "\n": -6.0}
    pieces |= {f"▁{word}": -1.0 for word in (*WORDS, *words)} | dict.fromkeys(letters, -6.0)
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return _fast(
        tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        additional_special_tokens=list(special),
    )  # fmt: skip


def _fast(tokenizer: Tokenizer, **special: Any) -> PreTrainedTokenizerFast:
    names = [name for value in special.values() for name in (value if isinstance(value, list) else [value])]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    made: Any = PreTrainedTokenizerFast
    fast: PreTrainedTokenizerFast = made(tokenizer_object=tokenizer, **special)
    return fast


def _save_tokenizer(
    tokenizer: PreTrainedTokenizerFast, folder: Path, chat: str | None, processor: str, **values: Any
) -> None:
    """Write a tokenizer with a chat template, and ``processor_config.json``."""
    tokenizer.save_pretrained(folder)
    if chat is not None:
        (folder / "chat_template.jinja").write_text(chat, encoding="utf-8")
    (folder / "processor_config.json").write_text(
        json.dumps({"processor_class": processor} | values, indent=2), encoding="utf-8"
    )
