"""A client's answers on a backbone that writes them: the annotated ones to train on, its list of answers to rank.

Ranking as in ALBEF (Li et al., arXiv 2107.07651): of the list, the ``eval.rank_top`` answers whose first token is the
likeliest are scored by their whole sequence's log-likelihood. ALBEF's published code adds the first token's
log-likelihood to a sum that has it already; a backbone says which of both is its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feddat.example import Example
from feddat.models.generative import ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS, GenerativeBackbone, Questions
from feddat.tasks.generated import answer_loss, answer_shares, token_losses

#: Key of the answers' weights in a batch's inputs, (M,).
ANSWER_WEIGHTS = "answer_weights"


class AnswerTable:
    """Answers as token ids, padded once (with 0, behind the mask) and picked any number of times."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self._lengths = torch.tensor([len(ids) for ids in tokens])
        self._ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
        for row, ids in zip(self._ids, tokens, strict=True):
            row[: len(ids)] = torch.tensor(ids)

    def pick(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return ids (M, L) and mask (M, L) bool of the answers at ``indices`` (M,), L the longest of them."""
        lengths = self._lengths[indices]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        return self._ids[indices, :longest].to(device), mask.to(device)

    @property
    def first(self) -> Tensor:
        """Return each answer's first token after the start token, (answers,)."""
        return self._ids[:, 1]


class AnnotatedAnswers:
    """Every annotated answer of some examples, with its share in its question."""

    def __init__(self, examples: Sequence[Example], backbone: GenerativeBackbone) -> None:
        """Tokenise each distinct answer once.

        Raises:
            DataError: an example has no answers; names it.
        """
        shares = [answer_shares(example) for example in examples]
        position = {answer: n for n, answer in enumerate(dict.fromkeys(a for share in shares for a in share))}
        self._table = AnswerTable(backbone.answer_tokens(list(position)))
        self._answers = [torch.tensor([position[answer] for answer in share]) for share in shares]
        self._weights = [torch.tensor(list(share.values())) for share in shares]

    def batch(self, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the answers of the examples at ``indices`` (N,) as inputs: M >= N rows, question by question."""
        chosen = indices.tolist()
        counts = torch.tensor([len(self._answers[i]) for i in chosen])
        ids, mask = self._table.pick(torch.cat([self._answers[i] for i in chosen]), device)
        return {
            ANSWER_IDS: ids,
            ANSWER_MASK: mask,
            ANSWER_ROWS: torch.arange(len(chosen)).repeat_interleave(counts).to(device),
            ANSWER_WEIGHTS: torch.cat([self._weights[i] for i in chosen]).to(device),
        }


class Generation:
    """How one client answers with a generative backbone.

    Args:
        backbone: the frozen model.
        answers: the client's list of answers.
        top: answers that are scored whole per question.
        batch_size: answers decoded at once.
    """

    def __init__(self, backbone: GenerativeBackbone, answers: Sequence[str], top: int, batch_size: int) -> None:
        self._backbone = backbone
        self._table = AnswerTable(backbone.answer_tokens(answers))
        self._top = min(top, len(answers))
        self._batch_size = batch_size

    def loss(self, logits: Tensor, inputs: dict[str, Tensor], questions: int) -> Tensor:
        """Return the language-model loss of token logits (M, L - 1, V), weighted over the annotated answers."""
        return answer_loss(logits, inputs[ANSWER_IDS][:, 1:], self.mask(inputs), inputs[ANSWER_WEIGHTS], questions)

    def mask(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return which of a batch's token logits count, (M, L - 1) bool."""
        return inputs[ANSWER_MASK][:, 1:]

    def rank(self, head: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the log-likelihood of each answer of the list, (N, answers) float; −inf for all but the top."""
        questions = self._backbone.read(inputs)
        device = questions.states.device
        count = len(questions.states)
        ids, mask = self._table.pick(torch.zeros(count, dtype=torch.long), device)
        start = self._decode(head, questions, ids[:, :1], mask[:, :1])[:, 0]
        first = start.log_softmax(dim=-1)[:, self._table.first.to(device)]
        likeliest = first.topk(self._top, dim=1)
        rows = torch.arange(count, device=device).repeat_interleave(self._top)
        answers = likeliest.indices.flatten()
        parts = [slice(at, at + self._batch_size) for at in range(0, len(rows), self._batch_size)]
        scores = [self._likelihoods(head, questions.rows(rows[part]), answers[part]) for part in parts]
        ranked = torch.cat(scores).view(count, self._top)
        ranked = ranked + (self._backbone.first_token_counts - 1) * likeliest.values
        return torch.full_like(first, -torch.inf).scatter(1, likeliest.indices, ranked)

    def _likelihoods(self, head: nn.Module, questions: Questions, answers: Tensor) -> Tensor:
        ids, mask = self._table.pick(answers.cpu(), questions.states.device)
        logits = self._decode(head, questions, ids[:, :-1], mask[:, :-1])
        return -token_losses(logits, ids[:, 1:], mask[:, 1:]).sum(dim=1)

    def _decode(self, head: nn.Module, questions: Questions, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = head(self._backbone.decode(questions, ids, mask))
        return logits.float() if logits.dtype == torch.bfloat16 else logits
