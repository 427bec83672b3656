"""Shadow clients whose data is a known mixture of the attacker's own questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from feddat.example import ClientData, Example
from feddat.seeding import numpy_generator


def opening(example: Example) -> str:
    """Return the first two words of a question: what kind it is, as far as it can be told of any data."""
    return " ".join(example.text.lower().split()[:2])


@dataclass(frozen=True, slots=True)
class Pool:
    """The attacker's own questions.

    Attributes:
        examples: all of them, one client's after the other's.
        sources: the client that each is like, (n,), as a number.
        answers: all answers that they have, the most frequent first.
        kinds: their most frequent openings.
    """

    examples: tuple[Example, ...]
    sources: NDArray[np.int64]
    answers: tuple[str, ...]
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, examples: Mapping[str, Sequence[Example]], kinds: int) -> Pool:
        """Return the pool of questions like each client's, with so many kinds told apart."""
        every = [example for those in examples.values() for example in those]
        sources = np.repeat(np.arange(len(examples)), [len(those) for those in examples.values()])
        answers = _by_frequency(answer for example in every for answer in example.answers)
        return cls(tuple(every), sources, answers, _by_frequency(map(opening, every))[:kinds])

    def kind(self, example: Example) -> int:
        """Return the place of an example's opening among the kinds; one more than the last for any other."""
        found = opening(example)
        return self.kinds.index(found) if found in self.kinds else len(self.kinds)

    def kind_shares(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """Return the share of examples of each kind, the rest last, (k + 1,)."""
        counts = np.bincount([self.kind(example) for example in examples], minlength=len(self.kinds) + 1)
        found: NDArray[np.float64] = counts / max(1, len(examples))
        return found


def draw_mixtures(
    pool: Pool, count: int, size: int, like: ClientData, seed: int, scored_on: int = 1
) -> list[ClientData]:
    """Return shadow clients with ``size`` questions each, whose sources and kinds have shares drawn at random.

    Args:
        pool: of the attacker's questions.
        count: of shadow clients.
        size: questions of each, at most half of the pool.
        like: a client of the run, for how pictures are read.
        seed: of the draws.
        scored_on: questions that each is scored on, of the same mixture.
    """
    kinds = np.array([pool.kind(example) for example in pool.examples])
    cells = pool.sources * (len(pool.kinds) + 1) + kinds
    sizes = np.bincount(cells)
    found = []
    for place in range(count):
        generator = numpy_generator(seed, "audit", "mixture", place)
        by_source = generator.dirichlet(np.full(int(pool.sources.max()) + 1, 0.5))
        by_kind = generator.dirichlet(np.ones(len(pool.kinds) + 1))
        weights = (by_source[pool.sources] + 1e-3) * (by_kind[kinds] + 1e-3) / sizes[cells]
        chosen = generator.choice(
            len(pool.examples), min(size, len(pool.examples) // 2), replace=False, p=weights / weights.sum()
        )
        drawn = tuple(pool.examples[i] for i in chosen)
        answers = _by_frequency(answer for example in drawn for answer in example.answers)
        own = replace(like, name=f"shadow-{place}", train=drawn, answers=answers, encodings=None)
        rest = np.setdiff1d(np.arange(len(pool.examples)), chosen)
        scored = generator.choice(rest, min(scored_on, len(rest)), replace=False, p=weights[rest] / weights[rest].sum())
        others = tuple(pool.examples[i] for i in scored)
        found.append(replace(own, validation=others, test=others))
    return found


def _by_frequency(values: object) -> tuple[str, ...]:
    counts = Counter(values)  # type: ignore[call-overload]
    return tuple(sorted(counts, key=lambda value: (-counts[value], value)))
