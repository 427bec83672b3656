"""What can be combined with differential privacy: methods and options that docs/privacy.md has an argument for.

Everything without an argument is refused before anything is loaded, with one line that says why and what to set.
A method of another package has none either, unless the unit is a client: then only what a client sends matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feddat.adapters.base import TRAINED
from feddat.algorithms import ALGORITHMS
from feddat.algorithms.base import MAIN_HEAD, Algorithm
from feddat.algorithms.server import needs_each
from feddat.client.batches import steps_of_round
from feddat.client.client_level import server_noise, share_noise
from feddat.config import ConfigError, RunConfig
from feddat.config.privacy import Scope
from feddat.config.sections import ServerConfig
from feddat.models.base import Backbone
from feddat.privacy.accounting import MissingAccountant, noise_for

#: Method -> scopes that it has an argument for, where the unit is a record.
SCOPES: dict[str, tuple[Scope, ...]] = {
    "feddat": ("all", "shared"),
    "fedavg": ("all", "shared"),
    "fedavg-local": ("all", "shared"),
    "feddat-2": ("all",),
    "local": ("all",),
    "head": ("all",),
}
#: Methods of this package without one -> what they do that is not accounted for.
WHY_NOT: dict[str, str] = {
    "fedprox": "its proximal term is a gradient that belongs to no example",
    "scaffold": "its control variates are further arrays made of gradients",
    "feddyn": "its regulariser is a gradient that belongs to no example, and has a state of its own",
    "moon": "it compares features with those of earlier models",
    "ditto": "its personal adapter's distance is a gradient that belongs to no example",
    "apfl": "it learns the weight of its mixture from gradients of all examples together",
    "pfedme": "it takes several steps on one batch",
    "fedrep": "it trains head and adapter in turns",
    "fedper": "a part of its trained adapter stays with the client",
    "feddpa": "it compares examples by their features",
    "fedalt": "it weights adapters for each example",
    "fedsa-lora": "a part of its trained adapter stays with the client",
    "ffa-lora": "a part of its adapter does not train",
    "fedex-lora": "its server adds exact residuals of LoRA to frozen weights",
    "lora-fair": "its server corrects the mean factors by each client's product, and nobody has examined that",
    "fedmosaic": "it sends gradients of its loss beside the adapter, and learns the weight of its mixture",
    "fedlease": "it weights experts for each example by a router that would train without noise",
    "hilora": "its penalty is a gradient that belongs to no example",
    "pfedmma": "its projections are further arrays, which train outside the adapter without noise",
    "central": "one place holds all clients' records, and nothing leaves it",
}
#: Methods with an argument only for scope ``all`` -> why not for ``shared``.
WHY_NOT_SHARED: dict[str, str] = {
    "feddat-2": "its global adapter also trains beside the local one, which would have no noise",
    "local": "it shares nothing",
    "head": "it shares nothing",
}
#: Kinds of adapter whose gradients by example are known.
KINDS = ("bottleneck", "lora", "norm", "bias", "head")
#: Families of models in which they have been compared with those of single examples.
FAMILIES = ("vilt", "vilt-bert", "albef", "blip", "clip", "siglip")


@dataclass(frozen=True, slots=True)
class Rule:
    """A setting that cannot be combined with privacy.

    Attributes:
        key: of the setting.
        refuses: whether a configuration has it.
        reason: why, and what to set instead.
    """

    key: str
    refuses: Callable[[RunConfig], bool]
    reason: str


def _shared(config: RunConfig) -> bool:
    return config.privacy.scope == "shared"


#: For both units.
RULES: tuple[Rule, ...] = (
    Rule(
        "share_metrics",
        lambda config: config.share_metrics != "none",
        "losses, scores and numbers of examples are released without noise; set share_metrics=none",
    ),
    Rule(
        "server.weighting",
        lambda config: config.server.weighting == "examples",
        "a weight tells the number of records; set server.weighting=equal",
    ),
)
#: For unit ``client``.
CLIENT_RULES: tuple[Rule, ...] = (
    Rule(
        "server.rule",
        lambda config: config.server.rule != "mean",
        "it needs every client's own update, and noise is added to a mean; set server.rule=mean",
    ),
    Rule(
        "server.max_outlier",
        lambda config: config.server.max_outlier != ServerConfig.model_fields["max_outlier"].default,
        "one client's data would decide whether another one's update counts; leave it out",
    ),
    Rule(
        "privacy.scope",
        _shared,
        "a scope says which part of a record's training is private; with privacy.unit=client leave it out",
    ),
)
#: For unit ``record``.
RECORD_RULES: tuple[Rule, ...] = (
    Rule(
        "privacy.participations",
        lambda config: config.privacy.participations is not None,
        "records are paid for by steps; leave it out, or set privacy.unit=client",
    ),
    Rule(
        "server.rule",
        lambda config: config.server.rule == "qfedavg",
        "it weights clients by training losses, which are not private; take another rule",
    ),
    Rule(
        "train.clip_norm",
        lambda config: config.train.clip_norm is not None,
        "it scales all gradients by one norm, which is not private; privacy.clip takes its place",
    ),
    Rule(
        "train.trap",
        lambda config: config.train.trap != "none",
        "faults of the published code are not accounted for; set train.trap=none",
    ),
    Rule(
        "train.checkpointing",
        lambda config: config.train.checkpointing,
        "what the backward pass computes again is not recorded by example; set train.checkpointing=false",
    ),
    Rule(
        "momentum.alpha",
        lambda config: config.momentum.alpha > 0,
        "the momentum copy is a teacher that is not accounted for; set momentum.alpha=0",
    ),
    Rule(
        "fusion.kind",
        lambda config: config.fusion.kind == "transformer",
        "gradients by example of a trained fusion are not known; set fusion.kind=product",
    ),
    Rule(
        "adapter.peft",
        lambda config: config.adapter.peft not in (None, *KINDS),
        f"gradients by example of this kind are not known; kinds that can: {', '.join(KINDS)}",
    ),
    Rule(
        "train.precision",
        lambda config: config.adapter.peft in ("norm", "bias") and config.train.precision != "fp32",
        "gradients by example of the model's own weights are known only in float32; set train.precision=fp32",
    ),
    Rule(
        "adapter.start_local",
        lambda config: config.adapter.start_local is not None and not _shared(config),
        "it may have learned from the same records without noise, and reaches the global adapter through teacher or "
        "head; leave it out (start_local in client.yaml), or set privacy.scope=shared",
    ),
    Rule(
        "algorithm.personal_epochs",
        lambda config: config.algorithm.personal_epochs > 0 and not _shared(config),
        "personal fine-tuning has no noise, so not everything is private; set privacy.scope=shared",
    ),
    Rule(
        "algorithm.heads",
        lambda config: config.method == "feddat" and _shared(config) and config.algorithm.heads != "separate",
        "a shared head carries what the local adapter knows to the global one; set algorithm.heads=separate",
    ),
    Rule(
        "algorithm.alpha",
        lambda config: config.method == "feddat" and _shared(config) and config.algorithm.alpha > 0,
        "the teacher's logits carry what the local adapter knows to the global one; set algorithm.alpha=0",
    ),
)


def check_privacy(config: RunConfig) -> None:
    """Refuse a run that promises more than there is an argument for.

    Args:
        config: with an algorithm's name as method, and the kind of adapter filled in.

    Raises:
        ConfigError: one line; names the setting and what to set instead.
    """
    if config.privacy.of_records:
        _check_records(config)
        return
    if config.privacy.of_clients:
        _check_clients(config)
    if config.privacy.guarded_steps:
        _check_guarded(config)


def _check_records(config: RunConfig) -> None:
    method, scope = config.method, config.privacy.scope
    if method not in SCOPES:
        why = WHY_NOT.get(method, "nobody has written down what it releases")
        raise ConfigError(f"privacy: {method}: {why}; methods that can be private: {', '.join(SCOPES)}")
    if scope not in SCOPES[method]:
        raise ConfigError(f"privacy.scope: {scope}, but {method}: {WHY_NOT_SHARED[method]}; set privacy.scope=all")
    _apply((*RULES, *RECORD_RULES), config)


def _check_clients(config: RunConfig) -> None:
    algorithm = ALGORITHMS[config.method]
    if algorithm.centralised or not algorithm.communicates:
        raise ConfigError(
            f"privacy.unit: client, but {config.method} sends no update that noise could be added to; set "
            "privacy.unit=record, or take a method whose clients share an adapter"
        )
    check_server_part(algorithm)
    _apply((*RULES, *CLIENT_RULES), config)
    (share_noise if config.secure_aggregation.enabled else server_noise)(config)


def _check_guarded(config: RunConfig) -> None:
    """Refuse what would show the size of gradients although steps are guarded (:mod:`feddat.client.guarded`)."""
    algorithm, own = ALGORITHMS[config.method], "or set policy.guarded_steps to false in client.yaml"
    if algorithm.communicates and not algorithm.hides_gradients:
        raise ConfigError(
            f"privacy.guarded_steps: they do not cover {config.method}: it sends gradients or arrays beside the "
            f"adapter, has a loss with a known gradient, or does not declare hides_gradients; take another, {own}"
        )
    if config.train.clip_norm is not None:
        raise ConfigError(
            "privacy.guarded_steps: train.clip_norm: one huge gradient would shrink all others of its step to 0, which "
            f"shows that it was there; leave it out, {own}"
        )
    if config.server.rule == "qfedavg":
        raise ConfigError(
            "privacy.guarded_steps: server.rule is qfedavg, which weights clients by training losses; these stay with "
            f"the clients; take another rule, {own}"
        )


def steps_are_guarded(config: RunConfig) -> bool:
    """Return whether what leaves the client trains in guarded steps; noise for records needs none."""
    guarded = config.privacy.guarded_steps and not config.privacy.of_records
    return guarded and ALGORITHMS[config.method].communicates


def check_server_part(algorithm: Algorithm) -> None:
    """Refuse a method whose server needs more of each client than its part in a mean, where the unit is a client.

    Raises:
        ConfigError: one line.
    """
    if needs_each(algorithm.server):
        raise ConfigError(
            f"privacy.unit: client, but {algorithm.name} sends more than its adapter, or its server looks at every "
            "client's by itself; only the mean of clipped adapters has noise"
        )


def _apply(rules: Sequence[Rule], config: RunConfig) -> None:
    """Raise ``ConfigError`` for the first rule that refuses a configuration."""
    for rule in rules:
        if rule.refuses(config):
            raise ConfigError(f"privacy: {rule.key} is {config.value(rule.key)}: {rule.reason}")


def check_model(config: RunConfig, backbone: Backbone, writes: bool) -> None:
    """Refuse a model whose gradients by example are not known, where the unit is a record.

    Args:
        config: the run.
        backbone: its model.
        writes: whether any client's answers are written.

    Raises:
        ConfigError: one line.
    """
    if not config.privacy.of_records:
        return
    if backbone.family not in FAMILIES:
        raise ConfigError(
            f"privacy: gradients by example in models of family {backbone.family} are not known; families that can: "
            f"{', '.join(FAMILIES)}"
        )
    if writes:
        raise ConfigError("privacy: gradients by example of written answers are not known; set eval.answers=classes")


def releases(config: RunConfig) -> int:
    """Return how many noisy sums a step makes of one sample (docs/privacy.md)."""
    half_steps = {"feddat": config.algorithm.order == "alternating", "fedavg-local": True}
    return 2 if half_steps.get(config.method, False) and not _shared(config) else 1


def planned_noise(config: RunConfig, records: int) -> float | None:
    """Return the noise multiplier of a client's run, set or found for all its planned steps or rounds.

    Args:
        config: the run.
        records: number of the client's training examples.

    Returns:
        ``None`` if the run has no noise, or the client no records.

    Raises:
        ConfigError: no noise keeps the run within its budget.
    """
    privacy = config.privacy
    if privacy.of_clients:
        return (share_noise if config.secure_aggregation.enabled else server_noise)(config)
    if not privacy.of_records or not records or privacy.noise_multiplier is not None:
        return privacy.noise_multiplier
    rate, steps = min(1.0, config.train.batch_size / records), steps_of_round(config, records)
    try:
        return noise_for(privacy.epsilon or 0.0, privacy.delta, rate, releases(config), config.rounds * steps)
    except (ValueError, MissingAccountant) as error:
        raise ConfigError(f"privacy: {error}") from None


def private_adapters(algorithm: Algorithm, scope: Scope) -> tuple[str, ...]:
    """Return the names of the adapters that train with noise."""
    return tuple(name for name in TRAINED if name in algorithm.trains and (scope == "all" or name == "global"))


def private_heads(algorithm: Algorithm, config: RunConfig) -> tuple[str, ...] | None:
    """Return the names of the heads that train with noise; ``None``: all of them."""
    if config.privacy.scope == "all":
        return None
    return (algorithm.heads(config.algorithm).get("global", MAIN_HEAD),)
