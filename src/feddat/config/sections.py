"""The sections of a run's configuration: what can be set, between which bounds, and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feddat.kinds import KINDS
from feddat.precision import Precision

#: What of its metrics a client lets out, most reserved first.
Sharing: TypeAlias = Literal["none", "counts", "scores"]
#: What becomes of the learning rate in a round, after its warm-up.
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)


def shares_less(sharing: Sharing, than: Sharing) -> bool:
    """Tell whether a client lets out less of its metrics than this."""
    return SHARING.index(sharing) < SHARING.index(than)


class Section(BaseModel):
    """Keys of which every one is known, with values that do not change."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class AdapterConfig(Section):
    """What is inserted into the frozen backbone (METHOD: r = 16 reduces the width d to d / r)."""

    peft: str | None = Field(
        None, description="kind, see `feddat list`; default: the one a method is made for, else bottleneck"
    )
    reduction: int = Field(16, ge=1, description="bottleneck: inner width is hidden size / reduction")
    rank: int = Field(16, ge=1, description="LoRA: rank")
    alpha: int = Field(16, ge=1, description="LoRA: scale numerator (scale = alpha / rank)")
    prompt_tokens: int = Field(5, ge=1, description="prompt: tokens at the text input, and at the image input")
    sites: str | None = Field(
        None, description="bottleneck, LoRA: regular expression over module names; default: per architecture"
    )

    layers: int | None = Field(
        None,
        ge=1,
        description="bottleneck, LoRA: adapters in the last so many layers of each tower alone, which is quicker: what "
        "is below them is computed once; default: in all",
    )
    parts: tuple[Literal["language", "vision", "projector"], ...] = Field(
        ("language",),
        min_length=1,
        description="bottleneck, LoRA: parts of a decoder vision-language model that have adapters",
    )

    start: Path | None = Field(
        None, description="PEFT folder (feddat export) that the first global adapter is read from; default: it is drawn"
    )
    start_local: Path | None = Field(
        None,
        description="PEFT folder that a client's local adapter begins as, if it has not trained yet; default: it is "
        "drawn. In a deployment the client's own setting",
    )

    def without_start(self) -> AdapterConfig:
        """Return what adapters are, wherever they begin."""
        return self.model_copy(update={"start": None, "start_local": None})

    def form(self) -> dict[str, Any]:
        """Return what :func:`feddat.adapters.methods.build_adapters` takes."""
        return self.model_dump(exclude={"start", "start_local"})

    @field_validator("peft")
    @classmethod
    def _known_kind(cls, value: str | None) -> str | None:
        if value is not None and value not in KINDS:
            raise ValueError(f"unknown kind of adapter; kinds are {', '.join(KINDS)}")
        return value


class HeadConfig(Section):
    """The personal task head."""

    init: Literal["random", "words"] = Field(
        "random",
        description="classes: random, or from the backbone's masked-word head and the answers' word embeddings; "
        "models that write their answers start from their own vocabulary head",
    )
    lr: float = Field(1.0, ge=0, description="factor on train.lr for the head; 0: it is frozen as it started")


class FusionConfig(Section):
    """How the two towers of CLIP or SigLIP become one feature; other models have nothing to fuse."""

    kind: Literal["product", "transformer"] = Field(
        "product", description="embeddings with their product, or a transformer of 2 layers over all tokens, trained"
    )
    side: Literal["personal", "shared"] = Field(
        "personal", description="transformer: it stays with its client like a head, or travels with the adapter"
    )

    @model_validator(mode="after")
    def _something_to_share(self) -> FusionConfig:
        if self.kind == "product" and self.side == "shared":
            raise ValueError("side: shared, but kind product has no parameters that could travel")
        return self


class MomentumConfig(Section):
    """Momentum distillation of written answers (client/momentum.py)."""

    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the copy's predictions in the loss; 0: off, ALBEF: 0.4",
    )
    decay: float = Field(0.995, ge=0, lt=1, description="what the copy keeps of itself at every step")


class AlgorithmConfig(Section):
    """Settings of the local objective; each algorithm reads those it names."""

    order: Literal["alternating", "joint"] = Field(
        "alternating",
        description="feddat: two half steps on every batch, as published, or one step on the sum of both losses",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="weight of distillation in the global adapter's loss")
    beta: float = Field(0.5, ge=0, le=1, description="weight of distillation in the local adapter's loss")
    temperature: float = Field(3.0, gt=0, description="temperature T of distillation")
    ramp_rounds: int = Field(0, ge=0, description="exponential ramp-up of alpha and beta over so many rounds; 0: off")
    heads: Literal["shared", "separate"] = Field(
        "shared",
        description="methods with a global and a personal route: one personal head for both, or one for each",
    )
    head_share: float = Field(
        0.5, ge=0, le=1, description="fedrep: share of a round's steps that trains the head alone"
    )
    personal_layers: int = Field(1, ge=1, description="fedper: so many last layers' adapters stay with their client")
    instances: int = Field(5, ge=1, description="feddpa: training examples that a question is compared with")
    local_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="feddpa: weight of the local adapter in training, and for the most familiar question",
    )
    personal_epochs: int = Field(
        0, ge=0, description="fedavg: epochs of personal fine-tuning after the last round, not communicated"
    )
    fedprox_mu: float = Field(0.01, ge=0, description="fedprox: weight of the distance to the received adapter")
    scaffold_lr: float = Field(1.0, gt=0, description="scaffold: the server's step towards the mean; 1: the mean")
    feddyn_alpha: float = Field(0.01, gt=0, description="feddyn: weight of the dynamic regulariser")
    moon_mu: float = Field(1.0, ge=0, description="moon: weight of the contrastive loss")
    moon_temperature: float = Field(0.5, gt=0, description="moon: temperature of the contrastive loss")
    ditto_lambda: float = Field(0.1, ge=0, description="ditto: weight of the personal adapter's distance to the shared")
    apfl_alpha: float = Field(0.5, ge=0, le=1, description="apfl: the personal adapter's part of the mixture at first")
    apfl_learned: bool = Field(True, description="apfl: whether that part is learned")
    pfedme_lambda: float = Field(15.0, gt=0, description="pfedme: weight of the distance between both adapters")
    pfedme_steps: int = Field(5, ge=1, description="pfedme: steps of the personal adapter on each batch")
    pfedme_lr: float = Field(0.005, gt=0, description="pfedme: step of the shared adapter towards the personal one")
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of a method of another package, which checks them itself"
    )


class TrainConfig(Section):
    """Local training (METHOD: AdamW, a new optimizer and schedule each round)."""

    epochs: int = Field(1, ge=1, description="local epochs per round")
    steps: int | None = Field(None, ge=1, description="local steps (batches) per round, instead of epochs")
    batch_size: int = Field(32, ge=1, description="examples in a batch")
    lr: float = Field(1e-4, gt=0, description="AdamW: learning rate at its highest, after the warm-up")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW: weight decay; biases and norms have none")
    betas: tuple[float, float] = Field((0.9, 0.98), description="AdamW: decay of both running means of the gradient")
    eps: float = Field(1e-8, gt=0, description="AdamW: what is added to the root of the second running mean")
    warmup: float = Field(0.1, ge=0, le=1, description="share of the round's local steps")
    lr_schedule: Schedule = Field(
        "linear", description="how the rate falls after the warm-up, to 0 at the end of each round; or it is constant"
    )
    clip_norm: float | None = Field(None, gt=0, description="clip gradients to this norm; default: they are not")
    precision: Precision = Field(
        "fp32",
        description="format of matrix products; auto: bf16 where the device computes in it; int8: 8 bits in frozen "
        "layers, where the CPU has such products (docs/benchmarks.md)",
    )
    checkpointing: bool = Field(
        False, description="keep only what enters each layer, and compute the rest again for gradients: less memory"
    )
    trap: Literal["none", "frozen-local", "long-schedule", "moving-rest", "all"] = Field(
        "none", description="reproduce a fault of the published code, to measure what it costs (client/traps.py)"
    )


class ServerConfig(Section):
    """Aggregation and participation. ``server=RULE`` is short for ``server.rule=RULE``."""

    rule: Literal[
        "mean",
        "fedavgm",
        "fedadam",
        "fedyogi",
        "fedadagrad",
        "fedmedian",
        "fedtrimmedavg",
        "krum",
        "multikrum",
        "bulyan",
        "qfedavg",
    ] = Field("mean", description="how adapters are aggregated: the mean, or Flower's strategy of that name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of Flower's strategy, for example {eta: 0.01}"
    )
    weighting: Literal["equal", "examples"] = Field(
        "equal", description="weight of a client in the mean: the same for all, or its number of training examples"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of clients sampled per round")
    min_clients: int = Field(
        1, ge=1, description="stop, keeping everything, where so many clients are not there or do not answer"
    )
    wait: float = Field(
        600.0, ge=0, description="seconds to wait for all clients at the start, and for `min_clients` before a round"
    )
    deadline: float | None = Field(
        None, gt=0, description="seconds after which a round goes on without the clients that have not answered"
    )
    max_message: int = Field(
        4096, ge=1, description="MiB that what travels may have in one message; a run with more is not begun"
    )
    max_update: float = Field(
        100.0, gt=0, description="refuse an adapter whose distance to the one sent is so many times that one's norm"
    )
    max_examples: int = Field(10_000_000, ge=1, description="refuse a reply that says to have more training examples")
    agreed_examples: dict[str, int] = Field(
        default_factory=dict,
        description="client -> number of training examples that the consortium has agreed on; more are refused",
    )
    max_outlier: float = Field(
        10.0,
        gt=1,
        description="refuse an update whose norm is so many times the median of the others' of its round, allowing for "
        "its number of examples (docs/security.md)",
    )


class RuntimeConfig(Section):
    """Where clients run. ``runtime=NAME`` is short for ``runtime.kind=NAME``."""

    kind: Literal["in-process", "simulation", "deployment"] = Field(
        "in-process",
        description="clients take turns in this process; or Flower's simulation (Ray); or SuperLink and SuperNodes",
    )
    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="in-process: worker processes, of one thread each, in which clients take turns side by side; 1: "
        "this process; auto: one per core where that is quicker, with a small model and without a GPU",
    )
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, record a route's passes once per shape and launch them whole: the same numbers, without "
        "waiting for the CPU, for the memory of a pass more per route",
    )
    actors: int = Field(1, ge=1, description="simulation: processes that clients take turns in")
    server: Path | None = Field(
        None,
        description="deployment: server folder of `feddat deploy init`, whose SuperLink runs; default: this machine "
        "runs a SuperLink and a SuperNode for every client",
    )

    @model_validator(mode="after")
    def _jobs_are_of_this_process(self) -> RuntimeConfig:
        if self.kind != "in-process" and self.jobs not in (1, "auto"):
            other = "; use actors" if self.kind == "simulation" else ""
            raise ValueError(f"jobs: {self.jobs}, but they are for in-process clients, not for {self.kind}{other}")
        return self


class WireConfig(Section):
    """How the shared adapter travels (app/wire.py); an algorithm's extra arrays always travel as fp32."""

    format: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="numbers of the shared adapter in messages; int8: a scale per row, and error feedback"
    )
    delta: bool = Field(False, description="clients send the difference to the adapter that they received")


class SecureAggregationConfig(Section):
    """Sums of updates of which the server sees none by itself (docs/secure-aggregation.md)."""

    enabled: bool = Field(False, description="the server learns the sum of a round's updates, and no single one")
    threshold: float = Field(
        0.5, ge=0.5, lt=1, description="more than this share of a round's clients must stay until its sum is opened"
    )
    min_clients: int = Field(3, ge=3, description="fewest clients that a sum is ever made of")
    bits: int = Field(12, ge=8, le=32, description="of one number on its way; int8 has 8, for one client alone")
    clip: float = Field(
        0.01,
        gt=0,
        description="largest change of one number in a round; what is beyond waits for the next. AdamW moves each by "
        "about the sum of a round's learning rates",
    )


class EvalConfig(Section):
    """When and how clients are evaluated."""

    every: int = Field(1, ge=1, description="evaluate every so many rounds, and always after the last")
    split: Literal["validation", "test"] = Field("test", description="split of the final scores")
    curve_split: Literal["validation", "test"] = Field("validation", description="split of the curves between rounds")
    anchor: Literal["trained", "newest"] = Field(
        "trained",
        description="anchor of the DAT route: the one the local adapter was trained beside, or the newest",
    )
    batch_size: int = Field(128, ge=1, description="examples in a batch of an evaluation")
    answers: Literal["rank", "generate", "classes"] = Field(
        "rank",
        description="models that write answers: rank a client's list, or write freely, which counts if it is on the "
        "list; or train a classifier instead. A client's own `answers` comes first",
    )
    rank_top: int = Field(128, ge=1, description="rank: so many answers of the list are scored whole per question")


class LogConfig(Section):
    """Where else a run is told of as it goes on, beside its folder."""

    tensorboard: bool = Field(False, description="event files for TensorBoard in the run folder")
    mlflow: str | None = Field(None, description="tracking URI of an MLflow server or folder")
