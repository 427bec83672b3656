"""Log a run's numbers by round to TensorBoard and MLflow (``log`` in the settings).

Both are optional and imported only on request. A resumed run continues the same curves.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from feddat.config import ConfigError, RunConfig
from feddat.dotted import flat
from feddat.files import write_json
from feddat.report.folder import read_keys

log = logging.getLogger(__name__)

#: Folder of TensorBoard's event files, and file with MLflow's run id, in the run's folder.
TENSORBOARD, MLFLOW = "tensorboard", "mlflow.json"

#: Receives events, see :class:`~feddat.experiment.single.events.Announcer`.
Tracker = Callable[[dict[str, Any]], None]


def scalars(event: Mapping[str, Any]) -> dict[str, float]:
    """Return an event's numbers by name: ``loss/CLIENT``, ``SPLIT/ROUTE/CLIENT`` (or ``mean``), ``bytes/WAY``."""
    kind = event["event"]
    if kind == "fit":
        return {f"{name}/{event['client']}": float(value) for name, value in event["metrics"].items()}
    if kind == "eval":
        return {f"{event['split']}/{route}/{event['client']}": score for route, score in event["scores"].items()}
    if kind == "round":
        means = {f"{split}/{route}/mean": score for split, of in event["scores"].items() for route, score in of.items()}
        losses = {f"{name}/mean": float(value) for name, value in event["metrics"].items()}
        return means | losses | {f"bytes/{way}": float(count) for way, count in event["bytes"].items()}
    return {}


def check_trackers(config: RunConfig) -> None:
    """Refuse settings that need a missing package, before anything is written.

    Raises:
        ConfigError: a package is missing; the message names the setting and the package.
    """
    if config.log.tensorboard:
        _needed("torch.utils.tensorboard", "log.tensorboard", "tensorboard")
    if config.log.mlflow is not None:
        _load_mlflow()


@contextmanager
def trackers(config: RunConfig, folder: Path) -> Iterator[list[Tracker]]:
    """Open the trackers that the settings name, and close them when the run ends or fails.

    Raises:
        ConfigError: a tracker's package is not installed, or MLflow's address cannot be used.
    """
    with ExitStack() as stack:
        opened: list[Tracker] = []
        if config.log.tensorboard:
            opened.append(stack.enter_context(_tensorboard(folder)))
        if config.log.mlflow is not None:
            opened.append(stack.enter_context(_mlflow(config, config.log.mlflow, folder)))
        yield opened


@contextmanager
def _tensorboard(folder: Path) -> Iterator[Tracker]:
    writer: Any = None

    def track(event: dict[str, Any]) -> None:
        nonlocal writer
        if event["event"] == "start":
            # Hide what an earlier session wrote for rounds that are repeated.
            writer = tensorboard.SummaryWriter(folder / TENSORBOARD, purge_step=event["round"] + 1)
        for name, value in scalars(event).items():
            writer.add_scalar(name, value, event["round"])
        if event["event"] == "round":
            writer.flush()

    tensorboard = _needed("torch.utils.tensorboard", "log.tensorboard", "tensorboard")
    try:
        yield track
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _mlflow(config: RunConfig, uri: str, folder: Path) -> Iterator[Tracker]:
    mlflow = _load_mlflow()
    try:
        client = mlflow.MlflowClient(tracking_uri=uri)
        run = _mlflow_run(client, config, folder / MLFLOW, mlflow.exceptions.MlflowException)
    except mlflow.exceptions.MlflowException as error:
        raise ConfigError(f"log.mlflow: {uri}: {' '.join(str(error).split())}") from None
    metric = importlib.import_module("mlflow.entities").Metric
    now = importlib.import_module("mlflow.utils.time").get_current_time_millis

    def track(event: dict[str, Any]) -> None:
        found = scalars(event).items()
        metrics = [metric(_mlflow_name(name), value, now(), event["round"]) for name, value in found]
        if metrics:
            tell(f"numbers of round {event['round']}", client.log_batch, run, metrics=metrics)

    def tell(what: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        try:
            method(*arguments, **named)
        except mlflow.exceptions.MlflowException as error:
            # A federation does not stop for its trackers, since the run's folder has all numbers as well.
            log.warning("log.mlflow: %s did not accept %s: %s", uri, what, " ".join(str(error).split()))

    try:
        yield track
    except BaseException:
        tell("the end of the run", client.set_terminated, run, "FAILED")
        raise
    tell("the end of the run", client.set_terminated, run, "FINISHED")


def _mlflow_run(client: Any, config: RunConfig, file: Path, missing: type[Exception]) -> str:
    """Return the MLflow run id of this folder: the existing one, or a new one."""
    known = read_keys(file, ("run_id",))["run_id"] if file.is_file() else None
    if known is not None:
        client.update_run(known, "RUNNING")
        return str(known)
    name = f"feddat/{config.source_name}"
    experiment = client.get_experiment_by_name(name)
    place = client.create_experiment(name) if experiment is None else experiment.experiment_id
    run: str = client.create_run(place, run_name=config.run_name).info.run_id
    for key, value in flat(config.model_dump(mode="json", exclude={"log", "clients"})).items():
        if value is not None:
            client.log_param(run, key, value)
    write_json(file, {"run_id": run})
    return run


def _mlflow_name(name: str) -> str:
    """Return a name in which MLflow allows every character."""
    return re.sub(r"[^\w\-./ ]", "_", name)


def _load_mlflow() -> Any:
    # MLflow reports its use to its makers by default; a federation must not be reported to anybody.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    return _needed("mlflow", "log.mlflow", "mlflow")


def _needed(module: str, key: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(f"{key}: {extra} is not installed; run pip install 'feddat[{extra}]'") from None
