"""The methods: the algorithms, and variants of them with some settings changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from feddat.adapters.base import ADAPTERS, ROUTES
from feddat.algorithms import ALGORITHMS, Algorithm
from feddat.app.rules import check_rule
from feddat.app.secure_strategy import check_secure
from feddat.config import ConfigError, RunConfig
from feddat.kinds import KINDS, MIXING, named_variants
from feddat.report.tables import METHODS


def _twice_the_epochs(method: str, config: RunConfig) -> RunConfig:
    steps = None if config.train.steps is None else 2 * config.train.steps
    train = config.train.model_copy(update={"epochs": 2 * config.train.epochs, "steps": steps})
    return config.model_copy(update={"method": method, "train": train})


def _fine_tuned(config: RunConfig) -> RunConfig:
    algorithm = config.algorithm.model_copy(update={"personal_epochs": 1})
    return config.model_copy(update={"method": "fedavg", "algorithm": algorithm})


def _joint(config: RunConfig) -> RunConfig:
    algorithm = config.algorithm.model_copy(update={"order": "joint"})
    return config.model_copy(update={"method": "feddat", "algorithm": algorithm})


def _distilled(weight: float, config: RunConfig) -> RunConfig:
    algorithm = config.algorithm.model_copy(update={"alpha": weight, "beta": weight})
    return config.model_copy(update={"method": "feddat", "algorithm": algorithm})


def _separate_heads(weight: float, config: RunConfig) -> RunConfig:
    algorithm = config.algorithm.model_copy(update={"alpha": weight, "beta": weight, "heads": "separate"})
    return config.model_copy(update={"method": "feddat", "algorithm": algorithm})


def _mixed_answers(config: RunConfig) -> RunConfig:
    algorithm = config.algorithm.model_copy(update={"alpha": 0.1, "beta": 0.1, "answer": "mixture"})
    return config.model_copy(update={"method": "feddat", "algorithm": algorithm})


def _one_way(config: RunConfig) -> RunConfig:
    changes = {"alpha": 0.0, "beta": 0.1, "heads": "separate", "order": "joint"}
    algorithm = config.algorithm.model_copy(update=changes)
    privacy = config.privacy.model_copy(update={"scope": "shared"})
    return config.model_copy(update={"method": "feddat", "algorithm": algorithm, "privacy": privacy})


def _of_kind(method: str, kind: str, config: RunConfig) -> RunConfig:
    adapter = config.adapter.model_copy(update={"peft": kind})
    return config.model_copy(update={"method": method, "adapter": adapter})


def _with_rule(rule: str, config: RunConfig) -> RunConfig:
    options = SERVER_RULES[rule] | config.server.options
    server = config.server.model_copy(update={"rule": rule, "options": options})
    return config.model_copy(update={"method": "fedavg", "server": server})


#: Server rules that are methods of their own in the literature -> default options, chosen beforehand by their meaning
#: (docs/studies.md), not by a search.
SERVER_RULES: dict[str, dict[str, Any]] = {
    "fedavgm": {"server_momentum": 0.9},
    "fedadam": {"eta": 0.01},
    "fedyogi": {"eta": 0.01},
    "fedmedian": {},
    "fedtrimmedavg": {"beta": 0.25},
    "krum": {},
    "qfedavg": {"client_learning_rate": 1.0, "q": 0.01},
}

#: Name -> (description, function that applies its settings).
VARIANTS: dict[str, tuple[str, Callable[[RunConfig], RunConfig]]] = {
    "feddat-joint": ("FedDAT that trains both routes in one optimizer step instead of two", _joint),
    "feddat-mild": ("FedDAT with mild distillation: alpha = beta = 0.1", partial(_distilled, 0.1)),
    "feddat-heads": ("FedDAT with a separate head for the global route", partial(_separate_heads, 0.5)),
    "feddat-mild-heads": ("FedDAT with mild distillation and separate heads", partial(_separate_heads, 0.1)),
    "feddat-mixed": ("FedDAT with mild distillation; each client mixes the answers of both routes", _mixed_answers),
    "feddat-one-way": (
        "FedDAT whose global adapter learns nothing from the local side, for privacy.scope=shared",
        _one_way,
    ),
    "feddat-nokd": ("FedDAT without distillation: only the dual adapters", partial(_distilled, 0.0)),
    "fedavg-2x": (
        "FedAvg with twice the local epochs: as much computation as two adapters need",
        partial(_twice_the_epochs, "fedavg"),
    ),
    "local-2x": (
        "Local training with twice the epochs: as much computation as two adapters need",
        partial(_twice_the_epochs, "local"),
    ),
    "feddat-2-2x": (
        "FedDAT-2 with twice the local epochs: as much computation as FedDAT",
        partial(_twice_the_epochs, "feddat-2"),
    ),
    "fedavg-ft": ("FedAvg, followed by one epoch of personal fine-tuning that is not shared", _fine_tuned),
    **{
        name: (f"{method} with adapter.peft={kind}: {KINDS[kind].trains}", partial(_of_kind, method, kind))
        for name, method, kind in named_variants()
    },
    **{rule: (f"fedavg with server.rule={rule}", partial(_with_rule, rule)) for rule in SERVER_RULES},
}


def known_methods() -> dict[str, str]:
    """Return the description of every method by name."""
    known = {name: _first_line(algorithm) for name, algorithm in ALGORITHMS.items()}
    return known | {name: description for name, (description, _) in VARIANTS.items()}


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with an algorithm's name as ``method`` and the settings of the variant applied.

    Raises:
        ConfigError: the method is unknown, or it does not support the kind of adapter or the server's rule.
    """
    if config.method in VARIANTS:
        config = VARIANTS[config.method][1](config)
    if config.method not in ALGORITHMS:
        raise ConfigError(f"method: {config.method!r} is unknown; methods are {', '.join(known_methods())}")
    algorithm = ALGORITHMS[config.method]
    kinds, needs = algorithm.kinds, algorithm.needs
    if not kinds and any(len(ROUTES.get(route, ADAPTERS)) > 1 for route in algorithm.routes):
        kinds, needs = MIXING, "adapters whose outputs can be added up"
    kind = config.adapter.peft or next(iter(kinds or KINDS))
    if kinds and kind not in kinds:
        raise ConfigError(
            f"adapter.peft: {config.method} needs {needs}, but got {kind!r}; expected one of {', '.join(kinds)}"
        )
    config = config.model_copy(update={"adapter": config.adapter.model_copy(update={"peft": kind})})
    if kind == "head":  # without an adapter, only the heads of a method are left
        config = config.model_copy(update={"method": "head"})
    check_rule(config, ALGORITHMS[config.method])
    check_secure(config, ALGORITHMS[config.method])
    return config


def title(config: RunConfig) -> str:
    """Return the name of a run's method in print, which depends on its settings, not on the name in the configuration.

    FedDAT with ``algorithm.alpha`` and ``beta`` of 0.1 is *FedDAT, mild distillation*. FedDAT settings that no variant
    has are part of the name.
    """
    asked = resolve(config)
    alike = [config.method]
    for name, (_, change) in VARIANTS.items():
        if name not in SERVER_RULES and change(config).method == asked.method:
            variant = resolve(config.model_copy(update={"method": name}))
            if variant.model_copy(update={"method": asked.method}) == asked:
                alike.append(name)
    best = max(alike, key=_specific)
    called = METHODS.get(best, best)
    plain = resolve(RunConfig(method=best))
    if asked.method == "feddat":
        differing = [key for key in _FEDDAT if getattr(asked.algorithm, key) != getattr(plain.algorithm, key)]
        called += "".join(f", {key} {getattr(asked.algorithm, key)}" for key in differing)
    kind = asked.adapter.peft
    return called if kind in (plain.adapter.peft, None) else f"{called}, {KINDS[kind].title}"


#: Settings that make FedDAT a different method.
_FEDDAT = ("order", "alpha", "beta", "temperature", "ramp_rounds", "heads", "answer")


def _specific(name: str) -> int:
    """Return the number of settings that a named method fixes."""
    if name not in VARIANTS:
        return 0
    plain = RunConfig()
    changed = VARIANTS[name][1](plain)
    pairs = zip(plain.model_dump().values(), changed.model_dump().values(), strict=True)
    return sum(
        sum(one[key] != other[key] for key in one) if isinstance(one, dict) else one != other for one, other in pairs
    )


def _first_line(algorithm: Algorithm) -> str:
    return (sys.modules[type(algorithm).__module__].__doc__ or "").strip().partition("\n")[0]
