"""The tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from feddat.models.base import ModelError
from feddat.models.folder import first_line, require_file

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    """Return a folder's tokenizer.

    Args:
        folder: Hugging Face model folder.
        vocab_size: number of the model's word embeddings.

    Raises:
        ModelError: it is missing, unreadable, or has more tokens than the model.
    """
    # Without these files transformers makes up an empty tokenizer.
    path = require_file(folder, _FILES, "tokenizer")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds for damaged files
        raise ModelError(f"{path}: cannot be loaded as a tokenizer: {first_line(error)}") from error
    if len(tokenizer) > vocab_size:
        raise ModelError(f"{path}: {len(tokenizer)} tokens, but the model in {folder} has embeddings for {vocab_size}")
    return tokenizer
