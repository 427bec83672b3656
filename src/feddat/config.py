"""The whole configuration of one run, validated before anything starts.

A run is described by one YAML file and ``key=value`` overrides with dotted keys (``train.lr=1e-3``). Unknown keys are
refused, with the nearest known one named.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from feddat.kinds import KINDS
from feddat.precision import Precision


class ConfigError(ValueError):
    """The configuration is unusable; the message names the key and what was expected."""


#: What of its metrics a client lets out, most reserved first.
Sharing: TypeAlias = Literal["none", "counts", "scores"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class AdapterConfig(_Section):
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

    parts: tuple[Literal["language", "vision", "projector"], ...] = Field(
        ("language",),
        min_length=1,
        description="bottleneck, LoRA: parts of a decoder vision-language model that have adapters",
    )

    @field_validator("peft")
    @classmethod
    def _known_kind(cls, value: str | None) -> str | None:
        if value is not None and value not in KINDS:
            raise ValueError(f"unknown kind of adapter; kinds are {', '.join(KINDS)}")
        return value


class HeadConfig(_Section):
    """The personal task head."""

    init: Literal["random", "words"] = Field(
        "random",
        description="classes: random, or from the backbone's masked-word head and the answers' word embeddings; "
        "models that write their answers start from their own vocabulary head",
    )
    lr: float = Field(1.0, ge=0, description="factor on train.lr for the head; 0: it is frozen as it started")


class FusionConfig(_Section):
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


class MomentumConfig(_Section):
    """Momentum distillation of written answers (client/momentum.py)."""

    alpha: float = Field(
        0.0,
        ge=0,
        le=1,
        description="weight of the copy's predictions in the loss; 0: off, ALBEF: 0.4",
    )
    decay: float = Field(0.995, ge=0, lt=1, description="what the copy keeps of itself at every step")


class AlgorithmConfig(_Section):
    """Settings of the local objective; each algorithm reads those it names."""

    order: Literal["alternating", "joint"] = "alternating"
    alpha: float = Field(0.5, ge=0, le=1, description="weight of distillation in the global adapter's loss")
    beta: float = Field(0.5, ge=0, le=1, description="weight of distillation in the local adapter's loss")
    temperature: float = Field(3.0, gt=0)
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


class TrainConfig(_Section):
    """Local training (METHOD: AdamW, a new optimizer and schedule each round)."""

    epochs: int = Field(1, ge=1, description="local epochs per round")
    steps: int | None = Field(None, ge=1, description="local steps (batches) per round, instead of epochs")
    batch_size: int = Field(32, ge=1)
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(1e-8, gt=0)
    warmup: float = Field(0.1, ge=0, le=1, description="share of the round's local steps")
    clip_norm: float | None = Field(None, gt=0)
    precision: Precision = Field(
        "fp32", description="autocast dtype of forward passes; auto: bf16 where the device computes in it"
    )
    checkpointing: bool = Field(
        False, description="keep only what enters each layer, and compute the rest again for gradients: less memory"
    )
    trap: Literal["none", "frozen-local", "long-schedule", "moving-rest", "all"] = Field(
        "none", description="reproduce a fault of the published code, to measure what it costs (client/traps.py)"
    )


class ServerConfig(_Section):
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
    weighting: Literal["equal", "examples"] = "equal"
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
    max_update: float = Field(
        100.0, gt=0, description="refuse an adapter whose distance to the one sent is so many times that one's norm"
    )
    max_examples: int = Field(10_000_000, ge=1, description="refuse a reply that says to have more training examples")


class RuntimeConfig(_Section):
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


class WireConfig(_Section):
    """How the shared adapter travels (app/wire.py); an algorithm's extra arrays always travel as fp32."""

    format: Literal["fp32", "fp16", "bf16", "int8"] = Field(
        "fp32", description="numbers of the shared adapter in messages; int8: a scale per row, and error feedback"
    )
    delta: bool = Field(False, description="clients send the difference to the adapter that they received")


class EvalConfig(_Section):
    """When and how clients are evaluated."""

    every: int = Field(1, ge=1, description="evaluate every so many rounds, and always after the last")
    split: Literal["validation", "test"] = Field("test", description="split of the final scores")
    curve_split: Literal["validation", "test"] = Field("validation", description="split of the curves between rounds")
    anchor: Literal["trained", "newest"] = Field(
        "trained",
        description="anchor of the DAT route: the one the local adapter was trained beside, or the newest",
    )
    batch_size: int = Field(128, ge=1)
    answers: Literal["rank", "generate", "classes"] = Field(
        "rank",
        description="models that write answers: rank a client's list, or write freely, which counts if it is on the "
        "list; or train a classifier instead. A client's own `answers` comes first",
    )
    rank_top: int = Field(128, ge=1, description="rank: so many answers of the list are scored whole per question")


class LogConfig(_Section):
    """Where else a run is told of as it goes on, beside its folder."""

    tensorboard: bool = Field(False, description="event files for TensorBoard in the run folder")
    mlflow: str | None = Field(None, description="tracking URI of an MLflow server or folder")


class RunConfig(_Section):
    """Everything that determines one run's numbers, and where it is written."""

    name: str | None = Field(
        None, description="run folder below `runs_dir`; default: made from method, benchmark, seed"
    )
    runs_dir: Path = Path("runs")
    method: str = "feddat"
    model: str = Field("vilt-mini", description="name of a bundled model or path of a Hugging Face folder")
    weights: Literal["fp32", "bf16", "int8", "int4"] = Field(
        "fp32", description="number format of the frozen weights of decoder vision-language models; what trains is fp32"
    )
    benchmark: str | None = Field(
        "mini/domain", description="name in the catalog, or a prepared folder; or give `clients`"
    )
    root: Path | None = Field(
        None, description="paper/*: folder of the published datasets, or of the prepared folders domain, scene, ..."
    )
    clients: dict[str, dict[str, Any]] | None = Field(
        None,
        description="own data: client name -> {train, validation?, test, images, task?, ...} or {format, root, ...}",
    )
    data_cache: Path | None = Field(
        None, description="folder in which decoded images and tokens are kept for the next run; default: nowhere"
    )
    train_examples: int | None = Field(None, ge=1, description="cap on training examples per client")
    test_examples: int | None = Field(None, ge=1, description="cap on validation and on test examples per client")
    split_clients: int = Field(
        1, ge=1, description="deal each client's training examples out to so many clients with the whole of its tests"
    )
    data_seed: int = Field(0, ge=0, description="seed of generated or sampled data; the same for every method and seed")
    rounds: int = Field(30, ge=1)
    seed: int = Field(0, ge=0)
    device: str = "cpu"
    cache_prefix: int = Field(
        512,
        ge=0,
        description="MiB of memory of this process for the model's states below the first adapter, so that they are "
        "computed once for all rounds; what does not fit is computed in every batch; 0: all of it",
    )
    keep_clients: int = Field(
        32,
        ge=1,
        description="up to so many clients of this process keep prepared data and head in memory between turns; of "
        "more, none does, since each would have made room before its next turn",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of this process; default: torch's own choice")
    share_metrics: Sharing = Field(
        "scores", description="what leaves a client beside its adapter: nothing, numbers of examples, or scores as well"
    )
    runtime: RuntimeConfig = RuntimeConfig()
    adapter: AdapterConfig = AdapterConfig()
    head: HeadConfig = HeadConfig()
    fusion: FusionConfig = FusionConfig()
    momentum: MomentumConfig = MomentumConfig()
    algorithm: AlgorithmConfig = AlgorithmConfig()
    train: TrainConfig = TrainConfig()
    server: ServerConfig = ServerConfig()
    wire: WireConfig = WireConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _one_source_of_clients(self) -> RunConfig:
        if (self.benchmark is None) == (self.clients is None):
            raise ValueError("give exactly one of `benchmark` and `clients` (set benchmark: null for own data)")
        return self

    @model_validator(mode="after")
    def _one_backbone(self) -> RunConfig:
        for name, spec in (self.clients or {}).items():
            own = spec.get("model") if isinstance(spec, dict) else None
            if own is not None and own != self.model:
                raise ValueError(
                    f"clients.{name}.model: {own!r}, but the run's is {self.model!r}: all clients of a federation "
                    "share one backbone, since the adapters that the server averages belong to its layers"
                )
        return self

    @property
    def run_name(self) -> str:
        """Return ``name``, or ``METHOD-BENCHMARK-sSEED``."""
        if self.name:
            return self.name
        return f"{self.method}-{self.source_name}-s{self.seed}"

    @property
    def source_name(self) -> str:
        """Return what the data is called in folder names: the benchmark's name, or that of the prepared folder."""
        if self.benchmark is None:
            return "own-data"
        return Path(self.benchmark).name if Path(self.benchmark).is_dir() else self.benchmark.replace("/", "-")

    @property
    def run_dir(self) -> Path:
        """Return the run's folder."""
        return self.runs_dir / self.run_name

    def updated(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a copy with other values at dotted keys.

        Raises:
            ConfigError: a key is unknown or a value does not fit.
        """
        raw = self.model_dump()
        for key, value in values.items():
            _assign(raw, key.split("."), value)
        return _validated(raw, None)

    def value(self, key: str) -> Any:
        """Return the value at a dotted key."""
        return reduce(lambda at, name: at[name] if isinstance(at, Mapping) else getattr(at, name), key.split("."), self)

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


#: Section -> its key that ``SECTION=VALUE`` sets.
_SHORT = {"server": "rule", "runtime": "kind"}


def load_config(path: Path | str | None = None, overrides: list[str] | None = None, **values: Any) -> RunConfig:
    """Build a configuration from a YAML file, ``key=value`` overrides and keyword values, in that order of precedence.

    Relative paths inside ``clients`` are taken relative to the YAML file's folder.

    Raises:
        ConfigError: the file is missing or not YAML, a key is unknown, or a value does not fit.
    """
    raw: dict[str, Any] = {}
    if path is not None:
        path = Path(path)
        raw = _read_yaml(path)
        for section, key in _SHORT.items():
            if isinstance(raw.get(section), str):
                raw[section] = {key: raw[section]}
        for client in (raw.get("clients") or {}).values():
            if not isinstance(client, dict):
                continue
            # With a format, train, validation and test are names of its splits.
            for key in ("root",) if client.get("format") else ("train", "validation", "test", "images"):
                if isinstance(client.get(key), str):
                    client[key] = str((path.parent / client[key]).resolve())
        if raw.get("clients") and "benchmark" not in raw:
            raw["benchmark"] = None
    for item in overrides or []:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ConfigError(f"override {item!r}: expected key=value, for example train.lr=1e-3")
        _assign(raw, key.split("."), parse_scalar(value))
    for key, value in values.items():
        _assign(raw, key.split("."), value)
    return _validated(raw, path)


def _validated(raw: dict[str, Any], path: Path | str | None) -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"config file {path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"config file {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"config file {path}: expected keys and values at the top level")
    return raw


def parse_scalar(value: str) -> Any:
    """Read one value of the command line as YAML does, with ``1e-3`` as a number."""
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    if isinstance(parsed, str):
        # YAML 1.1 reads 1e-3 as text: it wants 1.0e-3, which nobody types.
        try:
            return float(parsed)
        except ValueError:
            return parsed
    return parsed


def _assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    if len(keys) == 1 and keys[0] in _SHORT and isinstance(value, str):
        keys = [keys[0], _SHORT[keys[0]]]
    *parents, last = keys
    for key in parents:
        child = target.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"key {'.'.join(keys)}: {key} is not a section")
        target = child
    target[last] = value


def _known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += _known_keys(annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def _explain(error: ValidationError, path: Path | str | None) -> str:
    where = f"config file {path}: " if path else "configuration: "
    parts = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _known_keys(), n=1, cutoff=0.5)
            parts.append(f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        else:
            message = item["msg"].removeprefix("Value error, ")
            parts.append((f"{key}: " if key else "") + f"{message} (got {item['input']!r})" if key else message)
    return where + "; ".join(parts)
