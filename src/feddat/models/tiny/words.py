"""Tokenizers of small models: the kind that each family uses, for one list of words. All other words are spelt."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, CLIPTokenizer, PreTrainedTokenizerFast

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_CHARACTERS = string.ascii_lowercase + string.digits
_CONTINUED = "##"
#: Suffix of CLIP's tokens that end a word.
_END = "</w>"


def bundled_words() -> list[str]:
    """Return the words and punctuation marks in the bundled vilt-mini's vocabulary, which cover the mini suite."""
    path = resources.files("feddat.models") / "assets" / "vilt-mini" / "vocab.txt"
    tokens = path.read_text(encoding="utf-8").split()
    return [token for token in tokens if not token.startswith(_CONTINUED) and token not in _SPECIAL]


def bert_vocabulary(words: Sequence[str]) -> dict[str, int]:
    """Return a BERT vocabulary: special tokens, ``words``, and letters and digits as initial and later word pieces."""
    pieces = [*_CHARACTERS, *(_CONTINUED + character for character in _CHARACTERS)]
    return {token: i for i, token in enumerate(dict.fromkeys([*_SPECIAL, *words, *pieces]))}


def bert_tokenizer(words: Sequence[str], folder: Path) -> dict[str, int]:
    """Write a BERT tokenizer and return its vocabulary."""
    vocabulary = bert_vocabulary(words)
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return vocabulary


def clip_tokenizer(words: Sequence[str], folder: Path) -> int:
    """Write a CLIP tokenizer whose byte pairs are merged until each word is one token; return its size.

    The second-to-last token starts texts, and the last token ends them.
    """
    alphabet = [*_CHARACTERS, *string.punctuation]
    learned = Tokenizer(models.BPE(end_of_word_suffix=_END))
    learned.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000,  # large enough to merge until no pair is left
        min_frequency=1,
        end_of_word_suffix=_END,
        show_progress=False,
    )
    learned.train_from_iterator([word for word in words if word.isalpha()], trainer)
    merges: Any = [tuple(pair) for pair in json.loads(learned.to_str())["model"]["merges"]]
    tokens = [*alphabet, *(character + _END for character in alphabet), *("".join(pair) for pair in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges).save_pretrained(folder)
    return len(tokens)


def siglip_tokenizer(words: Sequence[str], folder: Path) -> int:
    """Write a unigram tokenizer like SigLIP's; return its size. Token 0 ends and pads texts."""
    scores = {"</s>": 0.0, "<unk>": 0.0} | {f"▁{word}": -1.0 for word in words}
    scores |= {character: -5.0 for character in (*_CHARACTERS, *string.punctuation, "▁") if character not in scores}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=1))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 0)])
    kind: Any = PreTrainedTokenizerFast
    kind(tokenizer_object=tokenizer, eos_token="</s>", pad_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return len(scores)


def byte_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Return a byte-level BPE tokenizer like SmolVLM's and Qwen's, with each word with and without a leading space."""
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1_000_000,  # large enough to merge until no pair is left
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    known = [word for word in words if word.isalpha()]
    learned.train_from_iterator([*known, *(f" {word}" for word in known)], trainer)
    return learned


def piece_tokenizer(words: Sequence[str]) -> Tokenizer:
    """Return a word-piece tokenizer like LLaMA's and Gemma's, with ``▁`` for spaces and ``<s>`` before a text."""
    scores = {"<pad>": 0.0, "</s>": 0.0, "<s>": 0.0, "<unk>": 0.0}
    scores |= {piece: -1.0 for word in words for piece in (f"▁{word}", word)}
    marks = (*string.ascii_letters, *string.digits, *string.punctuation, "▁", "\n")
    scores |= {mark: -9.0 for mark in marks if mark not in scores}
    tokenizer = Tokenizer(models.Unigram(list(scores.items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return tokenizer
