"""Check what a server asks against a client's own policy: settings, instructions, and their consequences.

Every check is cheap, and runs before anything that it is about is loaded, computed or written.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from flwr.app import ConfigRecord, Message, MessageType
from pydantic import BaseModel

from feddat.app import messages, versions
from feddat.app.messages import Instruction
from feddat.client.batches import steps_of_round
from feddat.client.guarded import Guard
from feddat.client.private_rules import planned_noise
from feddat.config import PolicyConfig, RunConfig
from feddat.config.privacy import MEETS, PrivacyConfig

#: Parts of a client's model whose hashes an instruction must name.
PARTS = frozenset({"weights", "encoder", "adapter", "settings"})
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class PolicyError(ValueError):
    """A client's policy refuses. The message is only for the client: the key, what is asked, and what is allowed."""


def check_run_id(message: Message) -> str:
    """Return the id of a message's run.

    Raises:
        PolicyError: the message names no run id that can serve as a file name.
    """
    run = _config(message).get("run")
    if not isinstance(run, str) or not _RUN_ID.fullmatch(run):
        raise PolicyError("the message names no run; expected an id of at most 64 letters, digits, - and _")
    return run


def check_settings(policy: PolicyConfig, settings: RunConfig) -> None:
    """Refuse settings that a policy does not allow.

    Args:
        policy: the client's policy.
        settings: the run's settings, with an algorithm's name as the method and the kind of adapter filled in.

    Raises:
        PolicyError: names the first setting that is not allowed.
    """
    adapter = settings.adapter
    _among(policy.methods, settings.method, "methods", "method")
    _among(policy.kinds, adapter.peft, "kinds", "adapter.peft")
    if adapter.sites is not None:
        _among(policy.sites, adapter.sites, "sites", "adapter.sites")
    for part in adapter.parts:
        _among(policy.parts, part, "parts", "adapter.parts")
    if settings.train.trap != "none":
        _among(policy.traps, settings.train.trap, "traps", "train.trap")
    if settings.fusion.side == "shared" and not policy.shared_fusion:
        raise PolicyError("policy.shared_fusion: fusion.side is shared")
    if policy.secure_aggregation == "required" and not settings.secure_aggregation.enabled:
        raise PolicyError("policy.secure_aggregation: required, but secure_aggregation.enabled is false")
    if len(settings.algorithm.options) > 32:
        raise PolicyError(f"policy: algorithm.options has {len(settings.algorithm.options)} keys, expected at most 32")
    for split in (settings.eval.split, settings.eval.curve_split):
        _among(policy.score_splits, split, "score_splits", "eval.split or eval.curve_split")
    check_promise(policy, settings.privacy, settings.secure_aggregation.enabled)
    for key, value in numbers(settings):
        if key in policy.bounds and (problem := policy.outside(key, value)):
            raise PolicyError(f"policy.bounds: {problem}")


def check_promise(policy: PolicyConfig, privacy: PrivacyConfig, sums: bool) -> None:
    """Refuse a run that promises less privacy than a client requires, or too little for steps without a guard.

    Args:
        policy: the client's.
        privacy: what the run promises.
        sums: whether it has secure aggregation, so that clients can add noise in shares.

    Raises:
        PolicyError: says what the run promises and what the client requires.
    """
    if privacy.noise_seed is not None:
        raise PolicyError(
            "policy: privacy.noise_seed is set, but noise hides nothing from a server that knows its seed"
        )
    allowed = f"epsilon at most {policy.epsilon:g}, delta {policy.delta:g}"
    if policy.privacy == "none":
        if policy.guarded_steps and privacy.of_records and (found := _beyond(policy, privacy)):
            raise PolicyError(f"{found}, expected {allowed}: noise takes the place of policy.guarded_steps")
        return
    wanted = f"expected {MEETS[policy.privacy]}, {allowed}"
    if privacy.epsilon is None:
        raise PolicyError(f"policy.privacy: the run promises no privacy, {wanted}")
    if not privacy.meets(policy.privacy, sums):
        found = f"privacy.scope is {privacy.scope}" if privacy.of_records else "privacy.unit is client"
        noise = "" if privacy.of_records or sums else " and its server adds the noise"
        raise PolicyError(f"policy.privacy: {found}{noise}, {wanted}")
    if found := _beyond(policy, privacy):
        raise PolicyError(f"{found}, {wanted}")


def _beyond(policy: PolicyConfig, privacy: PrivacyConfig) -> str:
    """Return what a run promises if that is more than a client allows; empty if it is not."""
    epsilon = privacy.epsilon or 0.0
    if epsilon <= policy.epsilon and privacy.delta <= policy.delta:
        return ""
    return f"policy.epsilon, policy.delta: the run promises {epsilon:g} and {privacy.delta:g}"


def check_instruction(policy: PolicyConfig, settings: RunConfig, message: Message) -> None:
    """Refuse an instruction that is malformed or does not fit its run, without looking at its arrays.

    Raises:
        PolicyError: says what was found.
    """
    config = _config(message)
    try:
        messages.check_instructed(config)
    except messages.InstructionError as error:
        raise PolicyError(str(error)) from None
    if unknown := sorted(config.keys() - messages.INSTRUCTED.keys()):
        raise PolicyError(f"the instruction has {len(unknown)} unknown keys")
    parts = [str(part).partition("=")[0] for part in config["model"]]
    if len(parts) != len(PARTS) or set(parts) != PARTS:
        raise PolicyError(f"the instruction must name the hashes of {', '.join(sorted(PARTS))}, each once")
    round, rounds, split = config[messages.ROUND], config["rounds"], str(config["split"])
    if rounds != settings.rounds:
        raise PolicyError(f"the instruction says {rounds} rounds, its run {settings.rounds}")
    if not 1 <= round <= settings.rounds:
        raise PolicyError(f"round is {round}, expected 1 to {settings.rounds}")
    if not 0 <= config[messages.LEDGER] <= round:
        raise PolicyError(f"the instruction's ledger is {config[messages.LEDGER]}, expected 0 to {round}")
    wire = (config[messages.FORMAT], config[messages.DELTA])
    if wire != (settings.wire.format, settings.wire.delta):
        raise PolicyError("the instruction's wire format differs from its run's")
    if message.metadata.message_type == MessageType.EVALUATE:
        _among(policy.score_splits, split, "score_splits", "split")
        if split not in (settings.eval.split, settings.eval.curve_split):
            raise PolicyError(f"its run does not score split {split!r}")
        if config["final"] and (round != settings.rounds or split != settings.eval.split):
            raise PolicyError("the instruction marks an evaluation as final that is not the run's last")


def check_step(settings: RunConfig, message: Message) -> None:
    """Refuse a message of a secure sum that does not fit its run. The protocol itself checks the contents.

    Raises:
        PolicyError: says what was found.
    """
    config = _config(message)
    if set(config) != {"run", messages.ROUND, *versions.told()} or type(round := config[messages.ROUND]) is not int:
        raise PolicyError("a message of a secure sum must name only its run, round and version")
    if not 1 <= round <= settings.rounds:
        raise PolicyError(f"round is {round}, expected 1 to {settings.rounds}")
    if not settings.secure_aggregation.enabled:
        raise PolicyError("a message of a secure sum, but secure_aggregation.enabled is false")


def check_received(policy: PolicyConfig, ask: Instruction) -> None:
    """Refuse arrays with NaN, infinite or huge values: whether training overflows could depend on a single example.

    Raises:
        PolicyError: some value is not finite or too large. No array is named, since the server chose the names.
    """
    for tensor in (*(ask.shared or {}).values(), *ask.extras.values()):
        if not tensor.isfinite().all():
            raise PolicyError("the adapter or the extra arrays have NaN or infinite values")
        if tensor.numel() and tensor.abs().max() > policy.max_value:
            raise PolicyError(
                f"policy.max_value: the adapter or the extra arrays have values above {policy.max_value:g}"
            )


def check_parameters(policy: PolicyConfig, communicated: int) -> None:
    """Refuse an adapter with too many communicated parameters.

    Raises:
        PolicyError: says how many parameters would travel.
    """
    if communicated > policy.max_parameters:
        raise PolicyError(
            f"policy.max_parameters: {communicated} parameters would travel, expected at most {policy.max_parameters}"
        )


def check_training(policy: PolicyConfig, settings: RunConfig, examples: int) -> None:
    """Refuse an update from too few examples, or from too few or too many steps.

    Args:
        policy: the client's policy.
        settings: the run's settings.
        examples: number of the client's training examples.

    Raises:
        PolicyError: says how many examples or steps it would be.
    """
    train = settings.train
    steps = steps_of_round(settings, examples)
    if settings.method == "fedrep":  # the first steps of a round train only the head
        steps -= round(settings.algorithm.head_share * steps)
    used = min(examples, steps * train.batch_size)
    if used < policy.min_examples:
        raise PolicyError(f"policy.min_examples: an update of {used} examples, expected at least {policy.min_examples}")
    least, most = policy.bounds["train.steps"]
    if not least <= steps <= most:
        raise PolicyError(
            f"policy.bounds: train.steps is {steps} ({examples} examples in batches of {train.batch_size}), expected "
            f"{least:g} to {most:g}"
        )
    if settings.privacy.guarded_steps and not settings.privacy.of_records:
        batches = math.ceil(examples / train.batch_size)
        if (needed := Guard((), math.ceil(steps / batches)).needs(steps)) > steps:
            raise PolicyError(
                f"policy.guarded_steps: {steps} steps with {batches} batches in an epoch; {needed} or smaller batches "
                "are needed, so that several examples make every change"
            )


def check_noise(policy: PolicyConfig, settings: RunConfig, examples: int) -> None:
    """Refuse a run whose noise is outside the bounds, also where the run sets none and it is found.

    Args:
        policy: the client's policy.
        settings: the run's settings.
        examples: number of the client's training examples.

    Raises:
        PolicyError: says how much noise there would be.
        ConfigError: no noise keeps the run within its budget.
    """
    noise = planned_noise(settings, examples)
    if noise is not None and (problem := policy.outside("privacy.noise_multiplier", noise)):
        raise PolicyError(f"policy.bounds: {problem}")


def check_scores(policy: PolicyConfig, questions: int) -> None:
    """Refuse a score on too few questions; with no questions there is no score.

    Raises:
        PolicyError: says how many questions there are.
    """
    if 0 < questions < policy.min_questions:
        raise PolicyError(
            f"policy.min_questions: a score on {questions} questions, expected at least {policy.min_questions}"
        )


def numbers(settings: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted key and value of the settings that are numbers or pairs of numbers; skip tables with free keys."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | tuple) and not isinstance(value, bool):
            yield prefix + name, value


def _config(message: Message) -> Mapping[str, Any]:
    content = message.content if message.has_content() else None
    found = None if content is None else content.config_records.get(messages.CONFIG)
    return found if isinstance(found, ConfigRecord) else {}


def _among(allowed: Collection[str], asked: str | None, policy: str, setting: str) -> None:
    if asked not in allowed:
        raise PolicyError(f"policy.{policy}: {setting} is {str(asked)[:100]!r}, expected {_one_of(allowed)}")


def _one_of(allowed: Collection[str]) -> str:
    return f"one of {', '.join(allowed)}" if allowed else "nothing: none is allowed"
