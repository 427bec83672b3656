"""The answers of a client whose backbone writes them: annotated answers for training, a list of answers for evaluation.

An answer is chosen by ranking the list, or written freely and then looked up in the list
(:mod:`feddat.client.answer_list`). A freely written answer can be as long as the longest answer of the list.

Ranking follows ALBEF (Li et al., arXiv 2107.07651): it takes the ``eval.rank_top`` answers with the likeliest first
token, and scores each by the log-likelihood of its whole sequence. ALBEF's published code adds the first token's
log-likelihood to a sum that already contains it; each backbone states whether it does so too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feddat.client.answer_list import AnswerList
from feddat.config import EvalConfig
from feddat.example import Example
from feddat.models.generative import ANSWER_IDS, ANSWER_MASK, ANSWER_ROWS, GenerativeBackbone, ReadQuestions
from feddat.tasks.generated import answer_loss, answer_shares, token_losses

#: Key of the answers' weights in a batch's inputs, (M,).
ANSWER_WEIGHTS = "answer_weights"
#: Tokens that a freely written answer can have even if the list is shorter: another wording of an answer can be longer.
FEWEST_TOKENS = 10


class AnswerTable:
    """Answers as token ids, padded once (with 0, which the mask hides) and picked any number of times."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self._lengths = torch.tensor([len(ids) for ids in tokens])
        self._ids = torch.zeros(len(tokens), max(map(len, tokens)), dtype=torch.long)
        for row, ids in zip(self._ids, tokens, strict=True):
            row[: len(ids)] = torch.tensor(ids)

    def pick(self, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return ids (M, L) and mask (M, L) bool of the answers at ``indices`` (M,); L is their longest length."""
        lengths = self._lengths[indices]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths[:, None]
        return self._ids[indices, :longest].to(device), mask.to(device)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest answer, without start and end tokens."""
        return self._ids.shape[1] - 2

    @property
    def first(self) -> Tensor:
        """First token of each answer after the start token, (answers,)."""
        return self._ids[:, 1]


class AnnotatedAnswers:
    """Every annotated answer of some examples, with its share of its question's annotations."""

    def __init__(self, examples: Sequence[Example], backbone: GenerativeBackbone) -> None:
        """Tokenise each distinct answer once.

        Raises:
            DataError: an example has no answers; the message names it.
        """
        shares = [answer_shares(example) for example in examples]
        position = {answer: n for n, answer in enumerate(dict.fromkeys(a for share in shares for a in share))}
        self._table = AnswerTable(backbone.answer_tokens(list(position)))
        self._answers = [torch.tensor([position[answer] for answer in share]) for share in shares]
        self._weights = [torch.tensor(list(share.values())) for share in shares]

    def batch(self, indices: Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the answers of the examples at ``indices`` (N,) as inputs: M >= N rows, grouped by question."""
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
        config: uses ``answers``, ``rank_top``, and ``batch_size`` (answers of the list that are decoded at once).

    Attributes:
        written: the free answers of the last call of :meth:`answer` with their probabilities, in the list's words if
            the list has the answer; empty if the call ranked the list.
    """

    def __init__(self, backbone: GenerativeBackbone, answers: Sequence[str], config: EvalConfig) -> None:
        tokens = backbone.answer_tokens(answers)
        self.written: list[tuple[str, float]] = []
        self._backbone = backbone
        self._answers = tuple(answers)
        self._config = config
        self._table = AnswerTable(tokens)
        self._start, self._end = tokens[0][0], tokens[0][-1]
        self._list = AnswerList(answers, [ids[1:-1] for ids in tokens], backbone.answer_text)

    def loss(
        self,
        logits: Tensor,
        inputs: dict[str, Tensor],
        questions: int,
        teacher: Tensor | None = None,
        alpha: float = 0.0,
    ) -> Tensor:
        """Return the language-model loss of token logits (M, L - 1, V), weighted over the annotated answers.

        With ``teacher`` (logits of the same shape), the cross-entropy with the teacher's predictions enters the loss
        with weight ``alpha``.
        """
        tokens, weights = inputs[ANSWER_IDS][:, 1:], inputs[ANSWER_WEIGHTS]
        return answer_loss(logits, tokens, self.mask(inputs), weights, questions, teacher, alpha)

    def mask(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return which of a batch's token logits count, (M, L - 1) bool."""
        return inputs[ANSWER_MASK][:, 1:]

    def answer(self, head: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Return the log-likelihoods of the list's answers, (N, answers) float, −inf for answers not considered.

        Ranking considers only the top answers. Free writing considers only the written answer, and none if the list
        does not have it.
        """
        questions = self._backbone.read(inputs)
        if self._config.answers == "rank":
            return self._rank(head, questions)
        tokens, likelihoods = self._write(head, questions)
        scores = likelihoods.new_full((len(tokens), len(self._answers)), -torch.inf)
        texts = []
        for row, ids in enumerate(tokens):
            position, text = self._list.find(ids)
            if position is not None:
                scores[row, position] = likelihoods[row]
                text = self._answers[position]
            texts.append(text)
        self.written = list(zip(texts, likelihoods.exp().tolist(), strict=True))
        return scores

    def _rank(self, head: nn.Module, questions: ReadQuestions) -> Tensor:
        device = questions.device
        count = len(questions)
        top, batch_size = min(self._config.rank_top, len(self._answers)), self._config.batch_size
        start = torch.full((count, 1), self._start, device=device)
        first = self._decode(head, questions, start)[:, 0].log_softmax(dim=-1)[:, self._table.first.to(device)]
        likeliest = first.topk(top, dim=1)
        rows = torch.arange(count, device=device).repeat_interleave(top)
        answers = likeliest.indices.flatten()
        parts = [slice(at, at + batch_size) for at in range(0, len(rows), batch_size)]
        scores = [self._likelihoods(head, questions.rows(rows[part]), answers[part]) for part in parts]
        ranked = torch.cat(scores).view(count, top)
        ranked = ranked + (self._backbone.first_token_counts - 1) * likeliest.values
        return torch.full_like(first, -torch.inf).scatter(1, likeliest.indices, ranked)

    def _likelihoods(self, head: nn.Module, questions: ReadQuestions, answers: Tensor) -> Tensor:
        ids, mask = self._table.pick(answers.cpu(), questions.device)
        logits = self._decode(head, questions, ids[:, :-1], mask[:, :-1])
        return -token_losses(logits, ids[:, 1:], mask[:, 1:]).sum(dim=1)

    def _write(self, head: nn.Module, questions: ReadQuestions) -> tuple[list[list[int]], Tensor]:
        """Write greedily; return the token ids without start and end tokens, and their log-likelihood (N,)."""
        ids = torch.full((len(questions), 1), self._start, device=questions.device)
        ended = torch.zeros_like(ids[:, 0], dtype=torch.bool)
        total = torch.zeros_like(ids[:, 0], dtype=torch.float32)
        for _ in range(max(FEWEST_TOKENS, self._table.longest) + 1):
            likeliest = self._decode(head, questions, ids)[:, -1].log_softmax(dim=-1).max(dim=-1)
            total = total + likeliest.values.masked_fill(ended, 0.0)
            following = likeliest.indices.masked_fill(ended, self._end)
            ids = torch.cat([ids, following[:, None]], dim=1)
            ended = ended | (following == self._end)
            if ended.all():
                break
        rows = [row[1:] for row in ids.tolist()]
        return [row[: row.index(self._end)] if self._end in row else row for row in rows], total

    def _decode(self, head: nn.Module, questions: ReadQuestions, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return token logits (M, L, V); without ``mask``, there is no padding."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
        logits: Tensor = head(self._backbone.decode(questions, ids, mask))
        return logits.float() if logits.dtype == torch.bfloat16 else logits
