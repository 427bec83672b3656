"""FedDAT: federated fine-tuning of vision-language models with the Dual-Adapter Teacher (arXiv 2308.12305).

Experiment.load("x.yaml").run()
feddat.load("exported").answer("picture.png", "what is it?")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feddat.tuners import register_with_peft

if TYPE_CHECKING:
    from feddat.config import RunConfig, load_config
    from feddat.experiment import Experiment, compare
    from feddat.experiment.exports.answerer import load

__all__ = ["Experiment", "RunConfig", "compare", "load", "load_config"]

_HOME = {
    "Experiment": "feddat.experiment",
    "compare": "feddat.experiment",
    "load": "feddat.experiment.exports.answerer",
    "RunConfig": "feddat.config",
    "load_config": "feddat.config",
}
register_with_peft()


def __getattr__(name: str) -> Any:
    # Torch and transformers take seconds to import, so import them only on request.
    if name not in _HOME:
        raise AttributeError(f"module 'feddat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
