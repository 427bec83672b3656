"""The methods: the algorithms, and variants of them with some settings changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from feddat.adapters.base import ADAPTERS, ROUTES
from feddat.algorithms import ALGORITHMS
from feddat.app.rules import check_rule
from feddat.app.secure_strategy import check_secure
from feddat.client.trainer import personalises
from feddat.config import AlgorithmConfig, ConfigError, RunConfig
from feddat.kinds import KINDS, MIXING, named_variants
from feddat.report.methods import METHODS, method_name


def _twice_the_epochs(config: RunConfig) -> dict[str, Any]:
    steps = None if config.train.steps is None else 2 * config.train.steps
    return {"train.epochs": 2 * config.train.epochs, "train.steps": steps}


def _with_rule(rule: str, config: RunConfig) -> dict[str, Any]:
    return {"server.rule": rule, "server.options": SERVER_RULES[rule] | config.server.options}


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

#: Values by dotted key, or a function that returns them for a configuration.
Changes: TypeAlias = Mapping[str, Any] | Callable[[RunConfig], Mapping[str, Any]]

_MILD = {"algorithm.alpha": 0.1, "algorithm.beta": 0.1}
_HEADS = {"algorithm.heads": "separate"}
#: Variant -> (algorithm, the settings that it changes).
VARIANTS: dict[str, tuple[str, Changes]] = {
    "feddat-joint": ("feddat", {"algorithm.order": "joint"}),
    "feddat-mild": ("feddat", _MILD),
    "feddat-heads": ("feddat", {"algorithm.alpha": 0.5, "algorithm.beta": 0.5} | _HEADS),
    "feddat-mild-heads": ("feddat", _MILD | _HEADS),
    "feddat-mixed": ("feddat", _MILD | {"algorithm.answer": "mixture"}),
    "feddat-mixed-heads": ("feddat", _MILD | _HEADS | {"algorithm.answer": "mixture"}),
    "feddat-one-way": (
        "feddat",
        {"algorithm.alpha": 0.0, "algorithm.beta": 0.1, "algorithm.order": "joint", "privacy.scope": "shared"} | _HEADS,
    ),
    "feddat-nokd": ("feddat", {"algorithm.alpha": 0.0, "algorithm.beta": 0.0}),
    "fedavg-2x": ("fedavg", _twice_the_epochs),
    "local-2x": ("local", _twice_the_epochs),
    "feddat-2-2x": ("feddat-2", _twice_the_epochs),
    "feddyn-2x": ("feddyn", _twice_the_epochs),
    "fedavg-ft": ("fedavg", {"algorithm.personal_epochs": 1}),
    **{f"{method}-heads": (method, _HEADS) for method in ("ditto", "apfl", "feddpa")},
    **{name: (method, {"adapter.peft": kind}) for name, method, kind in named_variants()},
    **{rule: ("fedavg", partial(_with_rule, rule)) for rule in SERVER_RULES},
}


def known_methods() -> dict[str, str]:
    """Return the description of every method by name; for one that cannot be loaded, the reason."""
    return {name: METHODS[name].note if name in METHODS else _described(name) for name in (*ALGORITHMS, *VARIANTS)}


def resolve(config: RunConfig) -> RunConfig:
    """Return the configuration with an algorithm's name as ``method`` and the settings of the variant applied.

    Raises:
        ConfigError: the method is unknown, or it does not support the kind of adapter or the server's rule.
    """
    if config.method in VARIANTS:
        config = config.updated(_changes(config.method, config))
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


def check_variant(config: RunConfig, given: Collection[str] = ()) -> None:
    """Check that a variant does not replace a setting that was asked for.

    A run folder lists every setting, so a setting with its default value was asked for only if it is ``given``.

    Args:
        config: a configuration that a user gave, not that of a run folder.
        given: dotted keys that the user surely gave.

    Raises:
        ConfigError: the method is a variant with another value of a setting.
    """
    if config.method not in VARIANTS:
        return
    plain = RunConfig(method=config.method)
    own = _changes(config.method, config)
    for key, value in _changes(config.method, plain).items():
        if key == "method":
            continue
        asked, fixed = config.value(key), own[key] == value  # else it builds on what was asked for: twice the epochs
        if fixed and asked != value and (key in given or asked != plain.value(key)):
            raise ConfigError(
                f"{key}: method {config.method} sets it to {value}, but got {asked}; leave it out, or use "
                f"method={own['method']} with settings of your own"
            )


def without_effect(configs: Sequence[RunConfig]) -> list[str]:
    """Return the keys in section ``algorithm`` that are not at their defaults and that no run's method reads."""
    unread: set[str] | None = None
    for config in configs:
        settings, algorithm = resolve(config).algorithm, ALGORITHMS[resolve(config).method]
        changed = {key for key, value in AlgorithmConfig() if getattr(config.algorithm, key) != value}
        read = {*algorithm.reads, "options"}
        if personalises(algorithm, settings):
            read.add("personal_epochs")
        unread = changed - read if unread is None else unread & (changed - read)
    return sorted(f"algorithm.{key}" for key in unread or ())


def title(config: RunConfig) -> str:
    """Return the name of a run's method in print, which depends on its settings, not on the name in the configuration.

    FedDAT with ``algorithm.alpha`` and ``beta`` of 0.1 is *FedDAT, mild distillation*. FedDAT settings that no variant
    has are part of the name.
    """
    asked = resolve(config)
    alike = [config.method]
    for name, (method, _) in VARIANTS.items():
        if name not in SERVER_RULES and method == asked.method:
            variant = resolve(config.model_copy(update={"method": name}))
            if variant.model_copy(update={"method": asked.method}) == asked:
                alike.append(name)
    best = max(alike, key=_specific)
    called = method_name(best)
    plain = resolve(RunConfig(method=best))
    if asked.method == "feddat":
        differing = [key for key in _FEDDAT if getattr(asked.algorithm, key) != getattr(plain.algorithm, key)]
        called += "".join(f", {key} {getattr(asked.algorithm, key)}" for key in differing)
    kind = asked.adapter.peft
    return called if kind in (plain.adapter.peft, None) else f"{called}, {KINDS[kind].title}"


#: Settings that make FedDAT a different method.
_FEDDAT = ("order", "alpha", "beta", "temperature", "ramp_rounds", "heads", "answer")


def _changes(variant: str, config: RunConfig) -> dict[str, Any]:
    """Return what a variant changes in a configuration, by dotted key."""
    method, changes = VARIANTS[variant]
    return {"method": method, **(changes(config) if callable(changes) else changes)}


def _specific(name: str) -> int:
    """Return the number of settings that a named method fixes."""
    if name not in VARIANTS:
        return 0
    plain = RunConfig()
    return sum(plain.value(key) != value for key, value in _changes(name, plain).items())


def _described(name: str) -> str:
    """Return the first line of an algorithm's module."""
    try:
        return (sys.modules[type(ALGORITHMS[name]).__module__].__doc__ or "").strip().partition("\n")[0]
    except ConfigError as error:  # another package's; all other methods work
        return str(error)
