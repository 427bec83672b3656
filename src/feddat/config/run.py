"""The whole configuration of one run: its sections, and what is set beside them."""

from __future__ import annotations

import types
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from feddat.client_names import name_problem, same_name
from feddat.config.errors import ConfigError, explained, kind_of
from feddat.config.privacy import PrivacyConfig
from feddat.config.sections import (
    AdapterConfig,
    AlgorithmConfig,
    EvalConfig,
    FusionConfig,
    HeadConfig,
    LogConfig,
    MomentumConfig,
    RuntimeConfig,
    Section,
    SecureAggregationConfig,
    ServerConfig,
    Sharing,
    TrainConfig,
    WireConfig,
)
from feddat.picture_settings import PictureSettings
from feddat.text import normal_text


class RunConfig(Section):
    """Everything that determines one run's numbers, and where it is written."""

    name: str | None = Field(
        None, description="run folder below `runs_dir`; default: made from method, benchmark, seed"
    )
    runs_dir: Path = Field(Path("runs"), description="folder that run folders are made in")
    method: str = Field("feddat", description="method, or a variant of one, see `feddat list`")
    model: str = Field(
        "vilt-mini",
        description="name of a bundled model, path of a Hugging Face folder, or owner/name[@revision] there",
    )
    model_weights: str | None = Field(
        None,
        description="hash that the frozen weights must have, as a summary gives it; filled in when a run starts",
    )
    weights: Literal["fp32", "bf16", "int8", "int4"] = Field(
        "fp32", description="number format of the frozen weights of decoder vision-language models; what trains is fp32"
    )
    benchmark: str | None = Field(
        "mini/domain", description="name in the catalog, or a prepared folder; or give `clients`"
    )
    root: Path | None = Field(
        None, description="paper/*: folder of the published datasets, or of the prepared folders domain, scene, ..."
    )
    revisions: dict[str, str] | None = Field(
        None, description="medical/*: dataset on the Hub -> commit; filled in when a run starts"
    )
    clients: dict[str, dict[str, Any]] | None = Field(
        None,
        description="own data: client name -> {train, validation?, test, images, task?, ...} or {format, root, ...}",
    )
    pictures: PictureSettings = Field(
        PictureSettings(), description="how images are read (docs/data.md); a client's own `pictures` come first"
    )
    data_cache: Path | None = Field(
        None, description="folder in which decoded images and tokens are kept for the next run; default: nowhere"
    )
    train_examples: int | None = Field(None, ge=1, description="cap on training examples per client")
    test_examples: int | None = Field(None, ge=1, description="cap on test examples per client")
    validation_examples: int | None = Field(
        None, ge=1, description="cap on validation examples per client; default: that on test examples, mini/*: half"
    )
    split_clients: int = Field(
        1, ge=1, description="deal each client's training examples out to so many clients with the whole of its tests"
    )
    data_seed: int = Field(0, ge=0, description="seed of generated or sampled data; the same for every method and seed")
    rounds: int = Field(30, ge=1, description="rounds of communication")
    seed: int = Field(0, ge=0, description="seed of weights, batches and sampled clients")
    device: str = Field("cpu", description="device that clients compute on: cpu, cuda, cuda:1, ...")
    cache_prefix: int = Field(
        512,
        ge=0,
        description="MiB of memory (of the GPU, on one) for the model's states below the first adapter, so that they "
        "are computed once for all rounds; what does not fit is computed in every batch; 0: all of it",
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
    privacy: PrivacyConfig = PrivacyConfig()
    secure_aggregation: SecureAggregationConfig = SecureAggregationConfig()
    eval: EvalConfig = EvalConfig()
    log: LogConfig = LogConfig()

    @field_validator("clients", mode="before")
    @classmethod
    def _named_clients(cls, value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ValueError(f"expected names of clients and their files, {_CLIENTS}, not a {kind_of(value)}")
        clients = {normal_text(name) if isinstance(name, str) else name: spec for name, spec in value.items()}
        if len(clients) < len(value):
            raise ValueError("two names are the same in another Unicode form")
        for name, spec in clients.items():
            if isinstance(name, str) and (problem := name_problem(name)):
                raise ValueError(f"name {name!r}: {problem}")
            if not isinstance(spec, Mapping):
                raise ValueError(f"{name}: expected its files, {_CLIENTS}, not a {kind_of(spec)}")
        if pair := same_name(name for name in clients if isinstance(name, str)):
            raise ValueError(f"names {pair[0]!r} and {pair[1]!r}: expected that they differ in more than letter case")
        return clients

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
            assign(raw, key.split("."), value)
        return validated(raw, None)

    def value(self, key: str) -> Any:
        """Return the value at a dotted key."""
        return reduce(lambda at, name: at[name] if isinstance(at, Mapping) else getattr(at, name), key.split("."), self)

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


#: What the section of clients looks like.
_CLIENTS = "`clients: {north: {train: a.jsonl, test: b.jsonl}}`"
#: Section -> its key that ``SECTION=VALUE`` sets.
SHORT = {"server": "rule", "runtime": "kind"}


def assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set the value at a dotted key, whose parts these are.

    Raises:
        ConfigError: what should be a section is none.
    """
    if len(keys) == 1 and keys[0] in SHORT and isinstance(value, str):
        keys = [keys[0], SHORT[keys[0]]]
    *parents, last = keys
    for key in parents:
        child = target.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(f"key {'.'.join(keys)}: {key} is not a section")
        target = child
    target[last] = value


def validated(raw: dict[str, Any], path: Path | str | None) -> RunConfig:
    """Return the configuration; ``path`` is the file that an error names, if there is one.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise explained(error, f"config file {path}" if path else "configuration", _known_keys()) from None


def _known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys, and those of the sections."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += [prefix + name, *_known_keys(annotation, f"{prefix}{name}.")]
        else:
            keys.append(prefix + name)
    return keys


def takes_text(key: str) -> bool:
    """Return whether the value at a dotted key is a text or a path, and nothing else."""
    model: Any = RunConfig
    for name in key.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if name not in fields:
            return False
        model = fields[name].annotation
    kinds = get_args(model) if isinstance(model, types.UnionType) else (model,)
    return set(kinds) <= {str, Path, types.NoneType}
