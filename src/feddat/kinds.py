"""The kinds of adapter, one row each: what they train, and their source. Imports nothing heavy.

With every kind, the head also trains, and it stays with its client. A method that communicates sends exactly what the
kind trains, unless the method itself says that a part stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of adapter.

    Attributes:
        title: its name in print, after a method's name.
        trains: what trains besides the head.
        source: the paper that it comes from.
        mixes: whether two adapters can be added up in one forward pass, as in FedDAT's teacher.
        methods: methods that can be named together with this kind, as METHOD-KIND.
        chooses: whether its adapters can be placed at some modules and not at others.
    """

    title: str
    trains: str
    source: str
    mixes: bool = False
    methods: tuple[str, ...] = ()
    chooses: bool = False


#: Name in ``adapter.peft`` -> kind.
KINDS: dict[str, Kind] = {
    "bottleneck": Kind(
        "bottleneck",
        "a bottleneck adapter after every feed-forward block",
        "Houlsby et al., arXiv 1902.00751",
        True,
        chooses=True,
    ),
    "lora": Kind(
        "LoRA",
        "low-rank updates of the query and value projections",
        "Hu et al., arXiv 2106.09685",
        True,
        ("feddat", "fedavg", "local", "central"),
        chooses=True,
    ),
    "prompt": Kind(
        "prompts",
        "soft prompt tokens at the text and image inputs",
        "Lester et al., arXiv 2104.08691",
        False,
        ("fedavg",),
        chooses=True,
    ),
    "bias": Kind("biases", "all bias terms of the backbone", "Ben Zaken et al., arXiv 2106.10199", False, ("fedavg",)),
    "norm": Kind("norms", "the backbone's normalisation layers", "Zhao et al., arXiv 2312.11420", False, ("fedavg",)),
    "full": Kind("full model", "the whole backbone", "McMahan et al., arXiv 1602.05629", False, ("fedavg", "local")),
    "head": Kind("head only", "nothing but the head; nothing travels", "Alain and Bengio, arXiv 1610.01644"),
}

#: Kinds whose adapters can be placed at some modules and not at others.
CHOOSING = tuple(name for name, kind in KINDS.items() if kind.chooses)
#: Kinds whose adapters can be added up.
MIXING = tuple(name for name, kind in KINDS.items() if kind.mixes)


def named_variants() -> Iterator[tuple[str, str, str]]:
    """Yield METHOD-KIND, the method and the kind for every pair that has a name."""
    for kind, row in KINDS.items():
        for method in row.methods:
            yield f"{method}-{kind}", method, kind
