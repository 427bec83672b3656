"""Load the tokenizer of a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from feddat.models.base import ModelError
from feddat.models.folder import first_line, require_file

_FILES = ("tokenizer.json", "vocab.txt", "vocab.json")


def load_tokenizer(folder: Path, vocab_size: int, from_json: bool = False) -> PreTrainedTokenizerBase:
    """Return a folder's tokenizer.

    Args:
        folder: Hugging Face model folder.
        vocab_size: number of the model's word embeddings.
        from_json: read only ``tokenizer.json``, for models whose own tokenizer class needs an additional library.

    Raises:
        ModelError: the tokenizer is missing or unreadable, or has more tokens than the model.
    """
    # Without these files, transformers would return an empty tokenizer.
    path = require_file(folder, ("tokenizer.json",) if from_json else _FILES, "tokenizer")
    kind: Any = PreTrainedTokenizerFast if from_json else AutoTokenizer
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise ModelError(f"{path}: cannot be loaded as a tokenizer: {first_line(error)}") from error
    if len(tokenizer) > vocab_size:
        raise ModelError(f"{path}: has {len(tokenizer)} tokens, but the model in {folder} has {vocab_size} embeddings")
    return tokenizer
