"""Settings that only a client's own machine knows: where its data is, and where to keep its state.

They are in one YAML file on that machine, named by the node's configuration (``data``). The file never leaves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from feddat.client_names import name_problem
from feddat.config import SHARING, ConfigError, PolicyConfig, RunConfig, Sharing
from feddat.config.errors import explained
from feddat.hub import located, parse_address
from feddat.text import normal_text
from feddat.yaml_files import YamlError, read_yaml


class SiteConfig(BaseModel):
    """A client's own settings; paths are relative to the file that holds them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    client: str = Field(description="name of this client in the federation")
    server: str | None = Field(None, pattern=r".+:\d+$", description="HOST:PORT of the consortium's server")
    node_port: int = Field(9094, ge=1, le=65535, description="port on this machine's loopback address, for its node")
    heartbeat: float = Field(
        30.0, ge=10, le=1800, description="seconds; the server gives up on this node after two without a sign of life"
    )
    data: dict[str, Any] = Field(description="{train, validation?, test, images, task?, ...} or {format, root, ...}")
    model: str | None = Field(
        None, description="folder of the foundation model, or owner/name@commit; default: the run's bundled model"
    )
    state: Path = Field(Path("state"), description="folder of the state kept between rounds: personal adapter, heads")
    seals: Path = Field(
        Path("seals"),
        description="folder of the keys that seal this state, one per run; best writable by fewer accounts than it",
    )
    data_cache: Path | None = Field(None, description="folder that caches decoded images and tokens")
    start_local: Path | None = Field(None, description="exported adapter (feddat export) to start the local one from")
    device: str = Field("cpu", description="device that this client computes on; the run's is ignored")
    threads: int | None = Field(
        None, ge=1, description="CPU threads; the run's is ignored; default: torch's own choice"
    )
    accept_changes: bool = Field(
        False, description="continue a run although data here was replaced since its personal state began"
    )
    old_state: Literal["continue", "refuse"] = Field(
        "continue",
        description="what to do if the state here is older than this client's last training at the server, for example "
        "after restoring an old backup",
    )
    share_metrics: Sharing = Field(
        "scores", description="what this client shares besides the adapter; a run can ask for less, never for more"
    )
    policy: PolicyConfig = Field(PolicyConfig(), description="what a server may ask of this client")

    @field_validator("client")
    @classmethod
    def _possible_name(cls, value: str) -> str:
        name = normal_text(value)
        if problem := name_problem(name):
            raise ValueError(problem)
        return name

    @property
    def log_file(self) -> Path:
        """The log of this client's processes, one JSON object per line."""
        return self.state / "log.jsonl"

    def store(self, run: str) -> Path:
        """Return the folder of a run's personal state.

        Raises:
            ConfigError: the run's id cannot be a folder name.
        """
        if not run or run.startswith(".") or any(sign in run for sign in "/\\:\0"):
            raise ConfigError(f"client {self.client}: run id {run!r} cannot be a folder name")
        return self.state / run

    def seal_key(self, run: str) -> Path:
        """Return the file of the key that seals a run's personal state.

        Raises:
            ConfigError: the run's id cannot be a folder name.
        """
        return self.seals / f"{self.store(run).name}.key"

    def applied(self, config: RunConfig) -> RunConfig:
        """Return the run's settings for this client, with its own data, model, device and caps.

        Raises:
            ConfigError: the run names a model that is not bundled, and this client has not chosen one itself.
        """
        policy = self.policy
        own: dict[str, Any] = {
            "clients": {self.client: dict(self.data)},
            "benchmark": None,
            "root": None,
            "split_clients": 1,
            "only_clients": None,
            "pictures": config.pictures.from_server(),  # this client's own settings of pictures are in `data`
            "data_cache": self.data_cache,
            "adapter": config.adapter.model_copy(update={"start": None, "start_local": self.start_local}),
            "share_metrics": min(self.share_metrics, config.share_metrics, key=SHARING.index),
            "device": self.device,
            "threads": self.threads,
            "train_examples": policy.train_examples,
            "validation_examples": policy.validation_examples,
            "test_examples": policy.test_examples,
            "data_seed": policy.data_seed,
            "privacy": config.privacy.model_copy(
                update={
                    # Whoever can repeat the others' training can subtract their updates from a sum of another run.
                    "secret_seeds": policy.secret_seeds
                    or config.privacy.secret_seeds
                    or config.secure_aggregation.enabled,
                    "guarded_steps": policy.guarded_steps or config.privacy.guarded_steps,
                }
            ),
        }
        if self.model is not None:
            own["model"] = self.model
        else:
            from feddat.models.catalog import list_models

            if config.model not in list_models():
                # This client decides what it downloads or opens, not the server.
                raise ConfigError(f"client {self.client}: the run's model is {config.model}; name it in client.yaml")
        return config.model_copy(update=own)


def read_site(path: Path) -> SiteConfig:
    """Read a client's settings.

    Raises:
        ConfigError: the file is missing or not YAML, or a key or value is invalid.
    """
    where = f"client file {path}"
    try:
        raw = read_yaml(path)
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except YamlError as error:
        raise ConfigError(f"{where}: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: expected keys and values at the top level")
    try:
        site = SiteConfig.model_validate(raw)
    except ValidationError as error:
        raise explained(error, where, SiteConfig.model_fields) from None
    folder = path.resolve().parent
    places: dict[str, Any] = {
        key: folder / value.expanduser()
        for key in ("state", "seals", "data_cache", "start_local")
        if (value := getattr(site, key)) is not None
    }
    if site.model is not None:
        own = folder / Path(site.model).expanduser()
        places["model"] = str(own) if own.is_dir() or parse_address(site.model, "model") is None else site.model
    return site.model_copy(update={"data": located(site.data, folder)} | places)
