"""Settings that suit a bundled model better than those of the paper, made for ViLT-B; they hold where none are given.

They were chosen on validation data (docs/results.md, docs/results/albef.md), for adapters; whoever trains the whole
backbone (``adapter.peft=full``) gets no learning rate from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Model -> dotted key -> value.
RECOMMENDED: dict[str, dict[str, Any]] = {
    # An inner width of 40 (the paper's reduction leaves 48 of ViLT-B's 768, but 10 of vilt-mini's 160); a head that
    # starts from the answers' words.
    "vilt-mini": {"adapter.reduction": 4, "head.init": "words", "head.lr": 0.3, "train.lr": 4e-3},
    "albef-mini": {"adapter.reduction": 4, "train.lr": 2e-3},
}


def recommended(given: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return dotted keys and values that hold for a model beside what was given.

    Args:
        given: sections and keys as in a YAML file.
        model: its name; there is nothing for a model that is not bundled.
    """
    found = {key: value for key, value in RECOMMENDED.get(model, {}).items() if not _is_given(given, key)}
    adapter = given.get("adapter")
    if isinstance(adapter, Mapping) and adapter.get("peft") == "full":
        found.pop("train.lr", None)
    return found


def _is_given(given: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    values = given.get(section)
    # What is no section is an error that the validation explains.
    return section in given and (not isinstance(values, Mapping) or name in values)
