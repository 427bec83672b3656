"""Tiny random models of every family in Hugging Face layout, images of 32 pixels in 4 patches."""

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from feddat.models.vilt_bert import write_vilt_bert
from helpers import WORDS, make_tiny_vilt

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def make_tiny_bert(folder: Path, **config) -> Path:
    """Write a random BERT of hidden size 32 with the tokenizer of the tiny ViLT."""
    make_tiny_vilt(folder)
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (folder / name).unlink()
    vocabulary = len(PreTrainedTokenizerFast.from_pretrained(folder))
    _save(lambda: BertModel(BertConfig(**{**SIZES, "vocab_size": vocabulary} | config)), folder)
    return folder


def make_tiny_vilt_bert(folder: Path, **bert) -> Path:
    """Write a folder with the tiny ViLT and the tiny BERT in it."""
    make_tiny_vilt(folder / "vilt")
    make_tiny_bert(folder / "bert", **bert)
    write_vilt_bert(folder, Path("vilt"), Path("bert"))
    return folder


def make_tiny_clip(folder: Path, **text) -> Path:
    """Write a random CLIP, its towers 32 and 48 wide, projected to 16; its tokens are letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase + string.digits + string.punctuation
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    config = CLIPConfig(
        text_config=SIZES
        | {"vocab_size": len(tokens), "bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
        | {"pad_token_id": len(tokens) - 1, "max_position_embeddings": 20}
        | text,
        vision_config=SIZES | {"hidden_size": 48, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )
    _save(lambda: CLIPModel(config), folder)
    CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    return folder


def make_tiny_siglip(folder: Path, **text) -> Path:
    """Write a random SigLIP whose towers are 32 wide; it reads texts of 12 tokens, whole words or letters."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = [("</s>", 0.0), ("<unk>", 0.0), *((f"▁{word}", -1.0) for word in WORDS)]
    pieces += [(letter, -5.0) for letter in string.ascii_lowercase + "▁"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    config = SiglipConfig(
        text_config=SIZES
        | {"vocab_size": len(pieces), "max_position_embeddings": 12, "projection_size": 32}
        | {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
        | text,
        vision_config=SIZES | {"image_size": 32, "patch_size": 16},
    )
    _save(lambda: SiglipModel(config), folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


#: Family -> what writes a folder of it.
MAKERS = {
    "vilt": make_tiny_vilt,
    "vilt-bert": make_tiny_vilt_bert,
    "clip": make_tiny_clip,
    "siglip": make_tiny_siglip,
}


def _save(make, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
