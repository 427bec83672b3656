"""Default settings that suit the bundled models better than those of the paper, which are for ViLT-B.

They were chosen on validation data (docs/results.md, docs/results/albef.md), for adapters. Training the whole
backbone (``adapter.peft=full``) therefore does not take its learning rate from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Model -> dotted key -> value.
RECOMMENDED: dict[str, dict[str, Any]] = {
    # An inner width of 40 (the paper's reduction gives 48 for ViLT-B's 768, but only 10 for vilt-mini's 160), and a
    # head that starts from the answers' word embeddings.
    "vilt-mini": {"adapter.reduction": 4, "head.init": "words", "head.lr": 0.3, "train.lr": 4e-3},
    "albef-mini": {"adapter.reduction": 4, "train.lr": 2e-3},
}


def recommended(given: Mapping[str, Any], model: str) -> dict[str, Any]:
    """Return the recommended values of a model, by dotted key, for the keys that are not given.

    Args:
        given: sections and keys as in a YAML file.
        model: name of the model; models that are not bundled have no recommended values.
    """
    found = {key: value for key, value in RECOMMENDED.get(model, {}).items() if not _is_given(given, key)}
    adapter = given.get("adapter")
    if isinstance(adapter, Mapping) and adapter.get("peft") == "full":
        found.pop("train.lr", None)
    return found


def _is_given(given: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    values = given.get(section)
    # A value that is not a section counts as given; validation reports it.
    return section in given and (not isinstance(values, Mapping) or name in values)
