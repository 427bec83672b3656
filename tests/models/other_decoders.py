"""Small random decoders of families outside ``catalog.DECODERS``, in the genuine folder layout."""

from pathlib import Path
from typing import Any

import transformers

from feddat.models.tiny import decoder as tiny
from feddat.models.tiny.settings import SIZES
from feddat.models.tiny.words import piece_tokenizer

SETTINGS = SIZES["unit"]
WORDS = ("what", "is", "the", "color", "?", "red", "blue", "green")
ENDS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
SIDE, PATCH = SETTINGS.image, SETTINGS.patch
GRIDS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def tokens(*special: str, **named: str) -> Any:
    """Return a tokenizer with special tokens, some of which have a name."""
    made: Any = tiny._fast(piece_tokenizer(WORDS), [*special, *named.values()], **ENDS)
    for name, token in named.items():
        setattr(made, name, token)
        setattr(made, f"{name}_id", made.convert_tokens_to_ids(token))
        made.init_kwargs[name] = token
    return made


def language(family: str, tokenizer: Any, **values: Any) -> dict[str, Any]:
    return {"model_type": family, **tiny._language(SETTINGS, tokenizer), **values}


def tower(family: str, **values: Any) -> dict[str, Any]:
    return SETTINGS.stack() | SETTINGS.pictures() | {"model_type": family} | values


def make_llava_next(folder: Path) -> None:
    tokenizer = tokens("<image>")
    config = {
        "text_config": language("llama", tokenizer),
        "vision_config": tower("clip_vision_model", projection_dim=SETTINGS.hidden),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "image_grid_pinpoints": GRIDS,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    images = transformers.LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRIDS
    )
    write(folder, "llava_next", config, images, tokenizer, "LlavaNextProcessor", "<image>",
          patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1)  # fmt: skip


def make_llava_onevision(folder: Path) -> None:
    tokenizer = tokens("<image>", "<video>")
    config = {
        "text_config": language("qwen2", tokenizer),
        "vision_config": tower("siglip_vision_model", vision_use_head=False),
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<video>"),
        "image_grid_pinpoints": GRIDS,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    images = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=GRIDS
    )
    write(folder, "llava_onevision", config, images, tokenizer, "LlavaOnevisionProcessor", "<image>",
          num_image_tokens=(SIDE // PATCH) ** 2, vision_feature_select_strategy="full")  # fmt: skip


def make_internvl(folder: Path) -> None:
    """Write an InternVL, which cuts pictures into tiles."""
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    tokenizer = tokens(**names, video_token="<video>")
    count = (SIDE // PATCH) ** 2
    config = {
        "text_config": language("qwen2", tokenizer),
        "vision_config": SETTINGS.stack()
        | {"model_type": "internvl_vision", "image_size": [SIDE, SIDE], "patch_size": [PATCH // 2, PATCH // 2]},
        "image_token_id": tokenizer.context_image_token_id,
        "image_seq_length": count,
        "downsample_ratio": 0.5,
    }
    images = transformers.GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, crop_to_patches=False)
    write(folder, "internvl", config, images, tokenizer, "InternVLProcessor", "<IMG_CONTEXT>", image_seq_length=count)


def make_gemma3(folder: Path) -> None:
    """Write a Gemma 3: full attention within a picture, which has two line breaks on either side."""
    names = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = tokens(**names)
    width = SETTINGS.hidden // SETTINGS.heads
    config = {
        "text_config": language(
            "gemma3_text", tokenizer, sliding_window=8, head_dim=width, query_pre_attn_scalar=width
        ),
        "vision_config": tower("siglip_vision_model", vision_use_head=False),
        "mm_tokens_per_image": 4,
        "image_token_id": tokenizer.image_token_id,
        "boi_token_index": tokenizer.boi_token_id,
        "eoi_token_index": tokenizer.eoi_token_id,
    }
    images = transformers.Gemma3ImageProcessorPil(size={"height": SIDE, "width": SIDE})
    write(folder, "gemma3", config, images, tokenizer, "Gemma3Processor", "<start_of_image>", image_seq_length=4)


OTHERS = {
    "llava_next": make_llava_next,
    "llava_onevision": make_llava_onevision,
    "internvl": make_internvl,
    "gemma3": make_gemma3,
}


def write(
    folder: Path, family: str, config: Any, images: Any, tokenizer: Any, processor: str, image: str, **values: Any
) -> None:
    folder.mkdir()
    chat = tiny._LLAVA_CHAT.replace("<image>", image)
    tiny._write(folder, SETTINGS, family, config, images, tokenizer, processor, chat, **values)
