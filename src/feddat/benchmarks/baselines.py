"""Baselines that ignore the picture: the most frequent answer, and the best guess from only the text.

If a model's scores are close to these numbers, the benchmark measures the bias of its texts, not vision-language
ability.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feddat.example import ClientData, Example

#: Optimizer steps of the classifier.
_STEPS = 300


def majority_score(client: ClientData) -> float:
    """Return the test score, in percent, of always giving the most frequent training answer or label."""
    counts = Counter(_truth(example) for example in client.train)
    guess = counts.most_common(1)[0][0]
    return 100 * sum(_score(example, guess) for example in client.test) / len(client.test)


def text_only_score(client: ClientData) -> float:
    """Return the test score, in percent, of a linear classifier on the words and word pairs of the text.

    The classifier trains on the client's training texts (AdamW, full batches). It answers a multiple-choice question
    with the choice that has the best score.
    """
    vocabulary = sorted({gram for example in client.train for text in _texts(example) for gram in _grams(text)})
    index = {gram: position for position, gram in enumerate(vocabulary)}
    classes = sorted({_truth(example) for example in client.train})
    many_choices = bool(client.train[0].choices)
    torch.manual_seed(0)
    scorer = nn.Linear(len(vocabulary), 1 if many_choices else len(classes))
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=0.05, weight_decay=0.05)
    inputs = _bags(client.train, index)
    labels = torch.tensor([classes.index(_truth(example)) for example in client.train])
    if many_choices:
        labels = torch.tensor([int(_truth(example)) for example in client.train])
    for _ in range(_STEPS):
        optimizer.zero_grad()
        loss: Tensor = F.cross_entropy(_logits(scorer, inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        guesses = _logits(scorer, _bags(client.test, index)).argmax(dim=1).tolist()
    named = [str(guess) if many_choices else classes[guess] for guess in guesses]
    return 100 * sum(_score(e, guess) for e, guess in zip(client.test, named, strict=True)) / len(client.test)


def _logits(scorer: nn.Linear, inputs: Tensor) -> Tensor:
    """Map bags (N, T, V) to logits: (N, classes) for one text per example, (N, T) for T choices."""
    scores: Tensor = scorer(inputs)
    return scores.squeeze(1) if inputs.shape[1] == 1 else scores.squeeze(2)


def _texts(example: Example) -> list[str]:
    return [f"{example.text} {choice}" for choice in example.choices] or [example.text]


def _grams(text: str) -> list[str]:
    words = text.lower().replace("?", " ?").split()
    return [*words, *(f"{one} {two}" for one, two in pairwise(words))]


def _bags(examples: Sequence[Example], index: dict[str, int]) -> Tensor:
    bags = torch.zeros(len(examples), len(_texts(examples[0])), len(index))
    for n, example in enumerate(examples):
        for t, text in enumerate(_texts(example)):
            for gram in _grams(text):
                if gram in index:
                    bags[n, t, index[gram]] = 1
    return bags


def _truth(example: Example) -> str:
    if example.label is not None:
        return str(example.label)
    return max(example.answers, key=lambda answer: example.answers[answer])


def _score(example: Example, guess: str) -> float:
    return float(str(example.label) == guess) if example.label is not None else example.answers.get(guess, 0.0)
