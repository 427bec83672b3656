"""What the tests of several rooms share."""

import string
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import BertTokenizer, ViltConfig, ViltForMaskedLM
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil

WORDS = ("what", "is", "the", "color", "red", "blue", "green", "yes", "no", "circle", "square", "two", "?")


def make_tiny_vilt(folder: Path, words: Sequence[str] = (), seed: int = 0, **config) -> Path:
    """Write a random ViLT with a masked-word head in Hugging Face layout into ``folder`` and return it.

    The tokenizer knows ``WORDS``, ``words`` and, as word pieces, every lower-case letter and digit. ``config``
    overrides the model's configuration (hidden size 32, 2 layers, images of 32 pixels in 4 patches).
    """
    folder.mkdir(parents=True, exist_ok=True)
    characters = string.ascii_lowercase + string.digits
    pieces = [*characters, *("##" + c for c in characters)]
    vocabulary = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *words, *pieces]))
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
    BertTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}).save_pretrained(folder)
    patch, size = values["patch_size"], values["image_size"]
    ViltImageProcessorPil(size={"shortest_edge": size}, size_divisor=patch).save_pretrained(folder)
    return folder
