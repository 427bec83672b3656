"""ALBEF as a frozen backbone that generates its answers, from a folder made by ``feddat convert``.

The folder holds ``config.json`` (``model_type`` ``albef``), ``model.safetensors``, BERT's tokenizer files and
``preprocessor_config.json``. Nothing is downloaded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from feddat.example import View
from feddat.models.albef.encoder import AlbefEncoder
from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.base import EncodedViews
from feddat.models.encoding import encode_views
from feddat.models.generative import Questions, answer_features
from feddat.models.weights import load_weights


class AlbefBackbone:
    """A frozen ALBEF behind :class:`feddat.models.generative.GenerativeBackbone`.

    Args:
        folder: model folder.
        name: name of the model in reports; default: the folder's path.

    Raises:
        ModelError: the folder is not a complete ALBEF folder.
    """

    family = "albef"
    #: The published ranking adds the first token's log-probability to a sum that already contains it.
    first_token_counts = 2

    def __init__(self, folder: Path | str, name: str | None = None) -> None:
        self.folder = Path(folder)
        self.name = name or str(folder)
        self.encoder = AlbefEncoder(self.folder)
        whole = load_weights(AlbefForQuestionAnswering, self.folder, "ALBEF").requires_grad_(False).train(False)
        self.model: nn.Module = whole.albef
        # Wrappers change the layers of this model in place, but have no `encode` and `decode`.
        self._albef = whole.albef
        self._head: nn.Module = whole.head
        self.feature_dim: int = whole.config.text_config.hidden_size

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the decoder's states that predict the answers' tokens, (M, L - 1, feature_dim), float."""
        return answer_features(self, inputs)

    def word_head(self, answers: Sequence[str]) -> None:
        """Return ``None``, because answers are generated, not classified."""

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer: [CLS], its word pieces, [SEP]."""
        return self.encoder.answers(answers)

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.encoder.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def answer_head(self) -> nn.Module:
        """Return a trainable copy of the checkpoint's vocabulary head, (M, L, d) to token logits (M, L, V)."""
        return copy.deepcopy(self._head).cpu().requires_grad_(True)

    def read(self, inputs: dict[str, Tensor]) -> Questions:
        """Read the questions of a batch together with their images, through the fusion layers, and return them."""
        states = self._albef.encode(inputs["input_ids"], inputs["attention_mask"], inputs["pixel_values"])
        return Questions(_wide(states), inputs["attention_mask"])

    def question_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the state of each question's [CLS] after reading the image, (views, feature_dim), float."""
        return self.read(inputs).states[:, 0]

    def decode(self, questions: Questions, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's states (M, L, d); each one predicts the next token."""
        return _wide(self._albef.decode(ids, mask, questions.states, questions.mask))


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
