"""The whole configuration of one run: its sections and its top-level settings."""

from __future__ import annotations

import types
from collections.abc import Mapping
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
    """Everything that determines the numbers of one run, and where the run is written."""

    name: str | None = Field(None, description="name of the run folder in `runs_dir`; default: METHOD-BENCHMARK-sSEED")
    runs_dir: Path = Field(Path("runs"), description="folder that contains the run folders")
    method: str = Field("feddat", description="method or variant of a method, see `feddat list`")
    model: str = Field(
        "vilt-mini",
        description="name of a bundled model, path of a Hugging Face model folder, or owner/name[@revision] on the Hub",
    )
    model_weights: str | None = Field(
        None,
        description="expected hash of the frozen weights, as in summary.json; filled in when a run starts",
    )
    weights: Literal["fp32", "bf16", "int8", "int4"] = Field(
        "fp32",
        description="number format of the frozen weights of decoder vision-language models; trained weights are fp32",
    )
    benchmark: str | None = Field(
        "mini/domain", description="name in the catalog, or path of a prepared folder; or set `clients` instead"
    )
    root: Path | None = Field(
        None, description="paper/*: folder with the published datasets, or with the prepared folders domain, scene, ..."
    )
    revisions: dict[str, str] | None = Field(
        None, description="medical/*: dataset on the Hub -> commit; filled in when a run starts"
    )
    clients: dict[str, dict[str, Any]] | None = Field(
        None,
        description="own data: client name -> {train, validation?, test, images, task?, ...} or {format, root, ...}",
    )
    pictures: PictureSettings = Field(
        PictureSettings(), description="how images are read (docs/data.md); a client's own `pictures` override it"
    )
    data_cache: Path | None = Field(
        None, description="folder that caches decoded images and tokens for later runs; default: no cache"
    )
    train_examples: int | None = Field(None, ge=1, description="cap on training examples per client")
    test_examples: int | None = Field(None, ge=1, description="cap on test examples per client")
    validation_examples: int | None = Field(
        None,
        ge=1,
        description="cap on validation examples per client; default: the cap on test examples, for mini/* half of it",
    )
    only_clients: tuple[str, ...] | None = Field(
        None, min_length=1, description="names of the data's clients that take part; default: all"
    )
    split_clients: int = Field(
        1, ge=1, description="split each client's training examples among this many clients, each with all its tests"
    )
    data_seed: int = Field(
        0, ge=0, description="seed of generated or sampled data; the same for every method and every `seed`"
    )
    rounds: int = Field(30, ge=1, description="communication rounds")
    seed: int = Field(0, ge=0, description="seed of initial weights, batches and client sampling")
    device: str = Field("cpu", description="device on which clients compute: cpu, cuda, cuda:1, ...")
    cache_prefix: int = Field(
        512,
        ge=0,
        description="MiB of memory (GPU memory on a GPU) to cache the model's states below the first adapter, so "
        "that they are computed once for all rounds; states that do not fit are computed in every batch; 0: no cache",
    )
    keep_clients: int = Field(
        32,
        ge=1,
        description="up to this many clients in this process keep their prepared data and head in memory between "
        "turns; with more clients, none does, since each would be evicted before its next turn",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of this process; default: torch's own choice")
    share_metrics: Sharing = Field(
        "scores", description="metrics that a client shares: none, numbers of examples, or scores as well"
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
            raise ValueError(f"expected client names and their files, {_CLIENTS}, not a {kind_of(value)}")
        clients = {normal_text(name) if isinstance(name, str) else name: spec for name, spec in value.items()}
        if len(clients) < len(value):
            raise ValueError("two names differ only in their Unicode form")
        for name, spec in clients.items():
            if isinstance(name, str) and (problem := name_problem(name)):
                raise ValueError(f"name {name!r}: {problem}")
            if not isinstance(spec, Mapping):
                raise ValueError(f"{name}: expected the client's files, {_CLIENTS}, not a {kind_of(spec)}")
        if pair := same_name(name for name in clients if isinstance(name, str)):
            raise ValueError(f"names {pair[0]!r} and {pair[1]!r} differ only in letter case; rename one")
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
                    f"clients.{name}.model: {own!r}, but the run's model is {self.model!r}; all clients of a "
                    "federation share one backbone, since the adapters that the server averages belong to its layers"
                )
        return self

    @property
    def run_name(self) -> str:
        """The run's name: ``name``, or ``METHOD-BENCHMARK-sSEED``."""
        if self.name:
            return self.name
        return f"{self.method}-{self.source_name}-s{self.seed}"

    @property
    def source_name(self) -> str:
        """The name of the data in folder names: the benchmark's name, or the name of the prepared folder."""
        if self.benchmark is None:
            return "own-data"
        return Path(self.benchmark).name if Path(self.benchmark).is_dir() else self.benchmark.replace("/", "-")

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.runs_dir / self.run_name

    def updated(self, values: Mapping[str, Any]) -> RunConfig:
        """Return a copy with new values at dotted keys.

        Raises:
            ConfigError: a key is unknown or a value is invalid.
        """
        raw = self.model_dump()
        for key, value in values.items():
            assign(raw, key.split("."), value)
        return validated(raw, None)

    def value(self, key: str) -> Any:
        """Return the value at a dotted key.

        Raises:
            KeyError: there is no such key.
        """
        at: Any = self
        for name in key.split("."):
            # getattr alone would also find methods and properties.
            inside = type(at).model_fields if isinstance(at, BaseModel) else at if isinstance(at, Mapping) else {}
            if name not in inside:
                raise KeyError(key)
            at = at[name] if isinstance(at, Mapping) else getattr(at, name)
        return at

    def to_yaml(self) -> str:
        """Return the resolved configuration as YAML that :func:`load_config` reads back to an equal object."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


#: Example of a `clients` section, for error messages.
_CLIENTS = "`clients: {north: {train: a.jsonl, test: b.jsonl}}`"
#: Section -> the key in it that ``SECTION=VALUE`` sets.
SHORT = {"server": "rule", "runtime": "kind"}


def assign(target: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set the value at a dotted key, given as its parts.

    Raises:
        ConfigError: a parent of the key is not a section.
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
    """Return the validated configuration; error messages name the file ``path``, if given.

    Raises:
        ConfigError: a key is unknown or a value is invalid.
    """
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise explained(error, f"config file {path}" if path else "configuration", _known_keys()) from None


def _known_keys(model: type[BaseModel] = RunConfig, prefix: str = "") -> list[str]:
    """Return all dotted keys, including the names of sections."""
    keys: list[str] = []
    for name, info in model.model_fields.items():
        annotation = info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            keys += [prefix + name, *_known_keys(annotation, f"{prefix}{name}.")]
        else:
            keys.append(prefix + name)
    return keys


def takes_text(key: str) -> bool:
    """Return whether a dotted key accepts only text or a path."""
    model: Any = RunConfig
    for name in key.split("."):
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        if name not in fields:
            return False
        model = fields[name].annotation
    kinds = get_args(model) if isinstance(model, types.UnionType) else (model,)
    return set(kinds) <= {str, Path, types.NoneType}
