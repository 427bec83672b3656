"""The sections of a run's configuration: every setting with its bounds and its meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feddat.kinds import KINDS
from feddat.precision import Precision

#: How much of its metrics a client shares, from least to most.
Sharing: TypeAlias = Literal["none", "counts", "scores"]
#: Shape of the learning-rate schedule of a round, after the warm-up.
Schedule: TypeAlias = Literal["linear", "cosine", "constant"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)


def shares_less(sharing: Sharing, than: Sharing) -> bool:
    """Return whether ``sharing`` shares less of a client's metrics than ``than``."""
    return SHARING.index(sharing) < SHARING.index(than)


class Section(BaseModel):
    """Base class of the sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class AdapterConfig(Section):
    """The adapters inserted into the frozen backbone (docs/method/feddat.md: r = 16 reduces the width d to d / r)."""

    peft: str | None = Field(
        None,
        description="kind of adapter, see `feddat list`; default: the kind the method is made for, else bottleneck",
    )
    reduction: int = Field(16, ge=1, description="bottleneck: hidden size / inner width")
    rank: int = Field(16, ge=1, description="LoRA: rank")
    alpha: int = Field(16, ge=1, description="LoRA: numerator of the scale alpha / rank")
    prompt_tokens: int = Field(
        5, ge=1, description="prompt: number of tokens, at the text input and at the image input each"
    )
    sites: str | None = Field(
        None, description="bottleneck, LoRA: regular expression over module names; default: per architecture"
    )

    layers: int | None = Field(
        None,
        ge=1,
        description="bottleneck, LoRA: adapters only in the last this many layers of each tower, which is faster, "
        "since the states below them are computed only once; default: in all layers",
    )
    parts: tuple[Literal["language", "vision", "projector"], ...] = Field(
        ("language",),
        min_length=1,
        description="bottleneck, LoRA: parts of a decoder vision-language model that get adapters",
    )

    start: Path | None = Field(
        None, description="PEFT folder (feddat export) with the initial global adapter; default: random"
    )
    start_local: Path | None = Field(
        None,
        description="PEFT folder with the initial local adapter of a client that has not trained yet; default: random. "
        "In a deployment, each client sets its own",
    )

    def without_start(self) -> AdapterConfig:
        """Return the settings without the initial adapters."""
        return self.model_copy(update={"start": None, "start_local": None})

    def form(self) -> dict[str, Any]:
        """Return the keyword arguments of :func:`feddat.adapters.build.build_adapters`."""
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
        description="for classifiers: random, or from the backbone's masked-word head and the answers' word "
        "embeddings; models that generate answers always start from their own vocabulary head",
    )
    lr: float = Field(1.0, ge=0, description="factor on train.lr for the head; 0: the head stays as initialised")


class FusionConfig(Section):
    """How the features of the two towers of CLIP or SigLIP are fused; other models have nothing to fuse."""

    kind: Literal["product", "transformer"] = Field(
        "product",
        description="both embeddings with their product, or a trained transformer of 2 layers over all tokens",
    )
    side: Literal["personal", "shared"] = Field(
        "personal", description="transformer: stays with its client like a head, or travels with the adapter"
    )

    @model_validator(mode="after")
    def _something_to_share(self) -> FusionConfig:
        if self.kind == "product" and self.side == "shared":
            raise ValueError("side: shared, but kind product has no parameters to share")
        return self


class MomentumConfig(Section):
    """Momentum distillation of generated answers (client/momentum.py)."""

    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the momentum model's predictions in the loss; 0: off; ALBEF uses 0.4",
    )
    decay: float = Field(
        0.995,
        ge=0,
        lt=1,
        description="decay of the momentum model: the share of its weights that it keeps at every step",
    )


class AlgorithmConfig(Section):
    """Settings of the local objective; each algorithm reads the settings it needs."""

    order: Literal["alternating", "joint"] = Field(
        "alternating",
        description="feddat: two half steps per batch, as published, or one step on the sum of both losses",
    )
    alpha: float = Field(0.5, ge=0, le=1, description="weight of distillation in the global adapter's loss")
    beta: float = Field(0.5, ge=0, le=1, description="weight of distillation in the local adapter's loss")
    temperature: float = Field(3.0, gt=0, description="temperature T of distillation")
    ramp_rounds: int = Field(0, ge=0, description="exponential ramp-up of alpha and beta over this many rounds; 0: off")
    heads: Literal["shared", "separate"] = Field(
        "shared",
        description="methods with a global and a personal route: one personal head for both routes, or one for each",
    )
    answer: Literal["dat", "mixture"] = Field(
        "dat",
        description="feddat: the dual teacher answers, as published; or a mixture of its and the global adapter's "
        "answers, weighted by each client on its validation data",
    )
    head_share: float = Field(0.5, ge=0, le=1, description="fedrep: share of a round's steps that train only the head")
    personal_layers: int = Field(
        1, ge=1, description="fedper: the adapters of this many last layers stay with their client"
    )
    instances: int = Field(
        5, ge=1, description="feddpa: number of training examples that each question is compared with"
    )
    local_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="feddpa: weight of the local adapter in training, and at most in prediction",
    )
    personal_epochs: int = Field(
        0, ge=0, description="fedavg: epochs of personal fine-tuning after the last round, not communicated"
    )
    fedprox_mu: float = Field(0.01, ge=0, description="fedprox: weight of the distance to the received adapter")
    scaffold_lr: float = Field(1.0, gt=0, description="scaffold: the server's step towards the mean; 1: the mean")
    feddyn_alpha: float = Field(0.01, gt=0, description="feddyn: weight of the dynamic regulariser")
    moon_mu: float = Field(1.0, ge=0, description="moon: weight of the contrastive loss")
    moon_temperature: float = Field(0.5, gt=0, description="moon: temperature of the contrastive loss")
    ditto_lambda: float = Field(
        0.1, ge=0, description="ditto: weight of the distance between personal and shared adapter"
    )
    apfl_alpha: float = Field(
        0.5, ge=0, le=1, description="apfl: initial weight of the personal adapter in the mixture"
    )
    apfl_learned: bool = Field(True, description="apfl: whether that weight is learned")
    pfedme_lambda: float = Field(15.0, gt=0, description="pfedme: weight of the distance between both adapters")
    pfedme_steps: int = Field(5, ge=1, description="pfedme: steps of the personal adapter on each batch")
    pfedme_lr: float = Field(0.005, gt=0, description="pfedme: step of the shared adapter towards the personal one")
    options: dict[str, Any] = Field(
        default_factory=dict, description="settings of a method from another package, which validates them itself"
    )


class TrainConfig(Section):
    """Local training (docs/method/feddat.md: AdamW, a new optimizer and schedule each round)."""

    epochs: int = Field(1, ge=1, description="local epochs per round")
    steps: int | None = Field(None, ge=1, description="local steps (batches) per round, instead of epochs")
    batch_size: int = Field(32, ge=1, description="examples in a batch")
    lr: float = Field(1e-4, gt=0, description="AdamW: peak learning rate, after the warm-up")
    weight_decay: float = Field(1e-2, ge=0, description="AdamW: weight decay; biases and norms have none")
    betas: tuple[float, float] = Field(
        (0.9, 0.98), description="AdamW: decay rates of the running means of the gradient and of its square"
    )
    eps: float = Field(1e-8, gt=0, description="AdamW: constant added to the root of the second running mean")
    warmup: float = Field(0.1, ge=0, le=1, description="length of the warm-up as a share of the round's local steps")
    lr_schedule: Schedule = Field(
        "linear",
        description="how the learning rate falls after the warm-up, to 0 at the end of each round; or constant",
    )
    clip_norm: float | None = Field(None, gt=0, description="clip gradients to this norm; default: no clipping")
    precision: Precision = Field(
        "fp32",
        description="number format of matrix products; auto: bf16 on devices that support it; int8: 8 bits in frozen "
        "layers, on CPUs that support it (docs/benchmarks.md)",
    )
    checkpointing: bool = Field(
        False,
        description="gradient checkpointing: keep only the input of each layer and recompute the rest, to save memory",
    )
    trap: Literal["none", "frozen-local", "long-schedule", "moving-rest", "all"] = Field(
        "none", description="reproduce a fault of the published code, to measure its cost (client/traps.py)"
    )


class ServerConfig(Section):
    """Aggregation and participation; ``server=RULE`` is short for ``server.rule=RULE``."""

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
    ] = Field("mean", description="how adapters are aggregated: their mean, or the Flower strategy of that name")
    options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the Flower strategy, for example {eta: 0.01}"
    )
    weighting: Literal["equal", "examples"] = Field(
        "equal", description="weight of a client in the mean: equal, or its number of training examples"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of clients sampled per round")
    min_clients: int = Field(
        1, ge=1, description="stop the run, keeping everything, if fewer clients than this are connected or answer"
    )
    wait: float = Field(
        600.0, ge=0, description="seconds to wait for all clients at the start, and for `min_clients` before each round"
    )
    deadline: float | None = Field(
        None, gt=0, description="seconds after which a round continues without the clients that have not answered"
    )
    max_message: int = Field(
        4096, ge=1, description="largest size in MiB of the parameters in one message; a run that needs more is refused"
    )
    max_update: float = Field(
        100.0,
        gt=0,
        description="refuse an adapter that is farther from the adapter sent than this many times the latter's norm",
    )
    max_examples: int = Field(
        10_000_000, ge=1, description="refuse a reply that claims more training examples than this"
    )
    agreed_examples: dict[str, int] = Field(
        default_factory=dict,
        description="client -> number of training examples agreed on by the consortium; higher claims are refused",
    )
    max_outlier: float = Field(
        10.0,
        gt=1,
        description="refuse an update whose norm exceeds this many times the median norm of the round's other updates, "
        "adjusted for its number of examples (docs/security.md)",
    )


class RuntimeConfig(Section):
    """Where clients run. ``runtime=NAME`` is short for ``runtime.kind=NAME``."""

    kind: Literal["in-process", "simulation", "deployment"] = Field(
        "in-process",
        description="clients take turns in this process; or Flower's simulation (Ray); or a SuperLink and SuperNodes",
    )
    jobs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        1,
        description="in-process: number of single-threaded worker processes in which clients train in parallel; 1: "
        "only this process; auto: one per core where that is faster, with a small model and without a GPU",
    )
    cuda_graphs: bool = Field(
        True,
        description="on a GPU, record the passes of each route as CUDA graphs, once per shape: the same numbers "
        "without waiting for the CPU, at the cost of the memory of one more pass per route",
    )
    actors: int = Field(1, ge=1, description="simulation: number of processes in which clients take turns")
    server: Path | None = Field(
        None,
        description="deployment: server folder made by `feddat deploy init`, with a running SuperLink; default: this "
        "machine runs a SuperLink and a SuperNode for every client",
    )

    @model_validator(mode="after")
    def _jobs_are_of_this_process(self) -> RuntimeConfig:
        if self.kind != "in-process" and self.jobs not in (1, "auto"):
            other = "; use actors" if self.kind == "simulation" else ""
            raise ValueError(f"jobs: {self.jobs}, but only kind in-process uses jobs, not {self.kind}{other}")
        return self


class WireConfig(Section):
    """How the shared adapter travels (app/wire.py); an algorithm's extra arrays always travel as fp32."""

    format: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32",
        description="number format of the shared adapter in messages; int8: with a scale per row and error feedback",
    )
    delta: bool = Field(False, description="clients send the difference from the adapter that they received")


class SecureAggregationConfig(Section):
    """Secure aggregation: the server sees only the sum of the updates (docs/secure-aggregation.md)."""

    enabled: bool = Field(False, description="the server learns only the sum of a round's updates, no single update")
    threshold: float = Field(
        0.5, ge=0.5, lt=1, description="more than this share of a round's clients must stay until the sum is unmasked"
    )
    min_clients: int = Field(3, ge=3, description="fewest clients that a sum may consist of")
    bits: int = Field(
        12,
        ge=8,
        le=32,
        description="bits of one number in a message, in which the sum of all clients must fit",
    )
    clip: float = Field(
        0.01,
        gt=0,
        description="largest change of one number in a round; the excess is carried over to the next round. AdamW "
        "moves each number by about the sum of a round's learning rates",
    )


class EvalConfig(Section):
    """When and how clients are evaluated."""

    every: int = Field(1, ge=1, description="evaluate every this many rounds, and always after the last")
    split: Literal["validation", "test"] = Field("test", description="split of the final scores")
    curve_split: Literal["validation", "test"] = Field("validation", description="split of the curves between rounds")
    anchor: Literal["trained", "newest"] = Field(
        "trained",
        description="anchor of the DAT route: the one the local adapter trained with, or the newest global adapter",
    )
    batch_size: int = Field(128, ge=1, description="examples in a batch during evaluation")
    answers: Literal["rank", "generate", "classes"] = Field(
        "rank",
        description="models that generate answers: rank the client's answer list, or generate freely, where only "
        "answers on the list count, or train a classifier instead. A client's own `answers` overrides it",
    )
    rank_top: int = Field(128, ge=1, description="rank: number of answers per question whose full sequence is scored")


class LogConfig(Section):
    """Trackers that log a run, besides its folder."""

    tensorboard: bool = Field(False, description="write event files for TensorBoard to the run folder")
    mlflow: str | None = Field(None, description="tracking URI of an MLflow server or folder")
