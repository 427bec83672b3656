"""The interface of backbones that generate answers: they read the question once and decode answers token by token.

For other code such a backbone is just another :class:`feddat.models.base.Backbone`. Its features are the decoder's
hidden states, and its head scores the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from feddat.models.base import Backbone

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

#: Keys of the answers in a batch's inputs: token ids (M, L); their mask (M, L), true where there is a token; and the
#: question of each answer, (M,), as a row of the other inputs.
ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS = "answer_ids", "answer_mask", "answer_rows"
#: Key of image states (N, patches, d). They replace ``pixel_values`` if no route changes the image encoder.
IMAGE_STATES = "image_states"


class ReadQuestions(Protocol):
    """Questions that a backbone has read together with their images, in the form that its decoder needs."""

    def __len__(self) -> int:
        """Return the number of questions."""
        ...

    @property
    def device(self) -> torch.device:
        """Return their device."""
        ...

    def rows(self, index: Tensor) -> ReadQuestions:
        """Return the questions at ``index`` (M,), in that order; an index can repeat."""
        ...


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions as states that a decoder attends to (:class:`ReadQuestions`).

    Attributes:
        states: hidden states (N, Q, d), float.
        mask: mask (N, Q), nonzero where a state is valid.
    """

    states: Tensor
    mask: Tensor

    def __len__(self) -> int:
        """Return N."""
        return len(self.states)

    @property
    def device(self) -> torch.device:
        """Return the device of the states."""
        return self.states.device

    def rows(self, index: Tensor) -> Questions:
        """Return the questions at ``index`` (M,), in that order; an index can repeat."""
        return Questions(self.states[index], self.mask[index])


@runtime_checkable
class GenerativeBackbone(Backbone, Protocol):
    """A frozen foundation model that generates its answers.

    ``features(inputs)`` needs answers in the inputs and returns (M, L - 1, d); see :func:`answer_features`.

    Attributes:
        first_token_counts: number of times that the first token's log-likelihood counts in the ranking of answers:
            once, or twice as in ALBEF's published code (:mod:`feddat.client.generation`).
    """

    first_token_counts: int

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer, from the start token to the end token."""
        ...

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return the text of the token ids between the start token and the end token."""
        ...

    def answer_head(self) -> nn.Module:
        """Return a vocabulary head from states (M, L, d) to token logits (M, L, V).

        It is a new trainable copy of the backbone's own head, or that head itself, which does not train and then has no
        parameters.
        """
        ...

    def read(self, inputs: dict[str, Tensor]) -> ReadQuestions:
        """Read the questions of a batch together with their images, and return them."""
        ...

    def decode(self, questions: Any, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's hidden states (M, L, d), float32 or wider.

        Each state sees its question and the tokens up to its own.

        Args:
            questions: M questions from :meth:`read`, one per answer.
            ids: token ids (M, L), starting with the start token.
            mask: mask (M, L), true where there is a token; padding comes last.
        """
        ...


@runtime_checkable
class ReadingBackbone(GenerativeBackbone, Protocol):
    """A backbone that generates its answers, and that also provides one feature per question for classification."""

    def question_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return pooled features of questions read together with their images, (views, feature_dim), float."""
        ...


def answer_features(backbone: GenerativeBackbone, inputs: dict[str, Tensor]) -> Tensor:
    """Return the hidden states of the answers' tokens 1 to L - 1, which predict tokens 2 to L: (M, L - 1, d).

    They are float32 or wider. The answers are in ``inputs`` under :data:`ANSWER_IDS`, :data:`ANSWER_MASK` and
    :data:`ANSWER_ROWS`. Each question is read once, regardless of its number of answers.
    """
    questions = backbone.read(inputs).rows(inputs[ANSWER_ROWS])
    return backbone.decode(questions, inputs[ANSWER_IDS][:, :-1], inputs[ANSWER_MASK][:, :-1])
