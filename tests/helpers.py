"""What the tests of several rooms share."""

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, ViltConfig, ViltForMaskedLM
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering

WORDS = ("what", "is", "the", "color", "red", "blue", "green", "yes", "no", "circle", "square", "two", "?")


def make_vocabulary(words: Sequence[str] = ()) -> dict[str, int]:
    """Return a BERT vocabulary of ``WORDS``, ``words`` and, as word pieces, every lower-case letter and digit."""
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *("##" + c for c in characters)]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *words, *pieces])
    return {token: i for i, token in enumerate(tokens)}


def make_tiny_vilt(folder: Path, words: Sequence[str] = (), seed: int = 0, **config) -> Path:
    """Write a random ViLT with a masked-word head in Hugging Face layout into ``folder`` and return it.

    The tokenizer knows ``WORDS``, ``words`` and, as word pieces, every lower-case letter and digit. ``config``
    overrides the model's configuration (hidden size 32, 2 layers, images of 32 pixels in 4 patches).
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = make_vocabulary(words)
    values = {
        "vocab_size": len(vocabulary), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 64, "image_size": 32, "patch_size": 16, "max_position_embeddings": 16, "pad_token_id": 0,
    } | config  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViltForMaskedLM(ViltConfig(**values))
        for parameter in model.parameters():
            if parameter.ndim > 1:  # a fresh model's position embeddings are all zero
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    patch, size = values["patch_size"], values["image_size"]
    ViltImageProcessorPil(size={"shortest_edge": size}, size_divisor=patch).save_pretrained(folder)
    return folder


def make_tiny_blip(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a random BLIP for question answering (width 32, 2 layers each, images of 32 pixels) and return its folder.

    As in published folders, the start token of answers has a word embedding and is not in the tokenizer.
    """
    vocabulary = make_vocabulary(words)
    layer = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = layer | {"vocab_size": len(vocabulary) + 2, "bos_token_id": len(vocabulary), "max_position_embeddings": 16}
    text |= {"sep_token_id": vocabulary["[SEP]"], "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BlipConfig(text_config=text, vision_config=layer | {"image_size": 32, "patch_size": 16})
        model = BlipForQuestionAnswering(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    BlipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def tiny_albef_config(**config) -> AlbefConfig:
    """Return a small ALBEF's configuration: width 32, 2 + 4 + 2 layers of which 2 fuse, images of 32 pixels."""
    vocab_size = config.pop("vocab_size", len(make_vocabulary()))
    layer = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    vision = layer | {"num_hidden_layers": 2, "image_size": 32, "patch_size": 16, "layer_norm_eps": 1e-6}
    text = layer | {"num_hidden_layers": 4, "vocab_size": vocab_size, "max_position_embeddings": 16}
    values = {"vision_config": vision, "text_config": text, "fusion_layer": 2, "decoder_layers": 2}
    return AlbefConfig(**(values | config))


def make_tiny_albef(folder: Path, words: Sequence[str] = (), seed: int = 0) -> Path:
    """Write a random small ALBEF (:func:`tiny_albef_config`) as a model folder and return it."""
    vocabulary = make_vocabulary(words)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AlbefForQuestionAnswering(tiny_albef_config(vocab_size=len(vocabulary)))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}, resample=3).save_pretrained(folder)
    return folder
