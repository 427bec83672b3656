"""The interface of backbones that answer in words: the question is read once, a decoder writes answers token by token.

To the rest of the house such a backbone is one more :class:`feddat.models.base.Backbone`, whose features are the
decoder's hidden states and whose head scores the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from feddat.models.base import Backbone

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Keys of the answers in a batch's inputs: token ids (M, L) and their mask (M, L), true where a token is; the question
#: (row of the other inputs) that each answers, (M,).
ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS = "answer_ids", "answer_mask", "answer_rows"
#: Key of what an image encoder that no route changes makes of ``pixel_values``, in their place: (N, patches, d).
IMAGE_STATES = "image_states"


class ReadQuestions(Protocol):
    """Questions that a backbone has read beside their images, in whatever form its decoder goes on from."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    @property
    def device(self) -> torch.device:
        """Return where they are."""
        ...

    def rows(self, index: Tensor) -> ReadQuestions:
        """Return the questions at ``index`` (M,), in that order, again where one is named again."""
        ...


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions as states that a decoder attends to (:class:`ReadQuestions`).

    Attributes:
        states: (N, Q, d) float.
        mask: (N, Q), not zero where a state counts.
    """

    states: Tensor
    mask: Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.states)

    @property
    def device(self) -> torch.device:
        """Return where the states are."""
        return self.states.device

    def rows(self, index: Tensor) -> Questions:
        """Return the questions at ``index`` (M,), in that order, again where one is named again."""
        return Questions(self.states[index], self.mask[index])


@runtime_checkable
class GenerativeBackbone(Backbone, Protocol):
    """A frozen foundation model that writes its answers.

    ``features(inputs)`` wants answers among the inputs and returns (M, L - 1, d), see :func:`answer_features`.

    Attributes:
        first_token_counts: how often the first token's log-likelihood enters the ranking of answers: once, or as in
            ALBEF's published code twice (:mod:`feddat.client.generation`).
    """

    first_token_counts: int

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return each answer's token ids, from the start to the end token."""
        ...

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return what the token ids between the start and the end token spell."""
        ...

    def answer_head(self) -> nn.Module:
        """Return a vocabulary head, (M, L, d) to token logits (M, L, V): a new trainable copy of the backbone's own.

        Or the backbone's own itself, which does not train: then it has no parameters.
        """
        ...

    def read(self, inputs: dict[str, Tensor]) -> ReadQuestions:
        """Return the questions of a batch, read beside their images."""
        ...

    def decode(self, questions: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's hidden states (M, L, d), float32 or wider.

        Each sees the tokens up to its own, and its question.

        Args:
            questions: M of them, one per answer, as :meth:`read` gave them.
            ids: token ids (M, L), the start token first.
            mask: (M, L), true where a token is; padding comes last.
        """
        ...


@runtime_checkable
class ReadingBackbone(GenerativeBackbone, Protocol):
    """A backbone that writes its answers, and whose way of reading a question also gives one feature to classify."""

    def question_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return pooled features of questions read beside their images, (views, feature_dim), float."""
        ...


def answer_features(backbone: GenerativeBackbone, inputs: dict[str, Tensor]) -> Tensor:
    """Return the hidden states that predict the answers' tokens 2 to L: those of tokens 1 to L - 1, (M, L - 1, d).

    Float32 or wider. The answers are in ``inputs`` under :data:`ANSWER_IDS`, :data:`ANSWER_MASK` and
    :data:`ANSWER_ROWS`; a question is read once however many answers it has.
    """
    questions = backbone.read(inputs).rows(inputs[ANSWER_ROWS])
    return backbone.decode(questions, inputs[ANSWER_IDS][:, :-1], inputs[ANSWER_MASK][:, :-1])
