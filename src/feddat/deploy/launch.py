"""Drive runs whose clients are in other processes: Flower's simulation, or a deployment.

The server app runs under the SuperLink and writes the run's folder on this machine. This process starts the run,
follows the log in that folder, and reports how the run ended.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from flwr.proto.federation_config_pb2 import SimulationConfig

from feddat.config import ConfigError, RunConfig
from feddat.deploy.control import Control, app_project, let_in
from feddat.deploy.errors import DeployError
from feddat.deploy.folder import ServerFolder, node_arguments, read_server, write_consortium
from feddat.deploy.names import quiet_flower
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment.serving.app_config import AppConfig, to_flat, to_toml
from feddat.experiment.single.events import Progress
from feddat.experiment.single.federation import participant_names
from feddat.experiment.single.folder import ExperimentError
from feddat.experiment.single.run import Experiment
from feddat.json_lines import Tail

#: Seconds to wait for a SuperLink that this process started.
START_SECONDS = 120.0
PAUSE = 0.5
#: Events of the log to pass on as progress.
_SHOWN = frozenset({"start", "fit", "eval", "failed", "refused", "kept", "round"})


def run_in(
    experiment: Experiment,
    progress: Progress | None = None,
    resume: bool = False,
    overwrite: bool = False,
    jobs: int | None = None,
    accept_changes: bool = False,
) -> dict[str, Any]:
    """Run an experiment in the runtime that its configuration names; otherwise as :meth:`Experiment.run`.

    Raises:
        ConfigError, ModelError, DataError, ExperimentError: as :meth:`Experiment.run`.
        DeployError: the runtime cannot be started or reached.
    """
    kind = experiment.config.runtime.kind
    if kind == "in-process":
        return experiment.run(progress, resume=resume, overwrite=overwrite, jobs=jobs, accept_changes=accept_changes)
    quiet_flower()
    with experiment.folder.locked():  # the server app locks it for the run itself
        experiment.folder.check(experiment.config, resume=resume, overwrite=overwrite)
    opened = _simulation(experiment) if kind == "simulation" else _deployment(experiment)
    with opened as runtime:
        config = AppConfig(_placed(experiment), resume, overwrite, accept_changes)
        return _follow(experiment, runtime, progress or (lambda event: None), config)


@dataclass(frozen=True)
class _Runtime:
    """Where to start a run.

    Attributes:
        control: the SuperLink.
        simulation: its virtual clients; ``None`` if the clients are real.
        processes: the processes that this one started; none of them may end during the run.
    """

    control: Control
    simulation: SimulationConfig | None = None
    processes: Processes | None = None


@contextmanager
def _simulation(experiment: Experiment) -> Iterator[_Runtime]:
    """Start a SuperLink that simulates its nodes with Ray."""
    if not _has_ray():
        raise ConfigError("runtime: simulation needs Ray; install the extra: pip install 'feddat[simulation]'")
    actors = experiment.config.runtime.actors
    names = participant_names(experiment.settings)
    simulation = SimulationConfig(
        num_supernodes=len(names),
        backend="ray",
        client_resources_num_cpus=1,
        init_args_num_cpus=actors,
    )
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feddat-")))
        processes = stack.enter_context(Processes(experiment.folder.path / "logs"))
        arguments = ["--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
        processes.start("superlink", ["deploy", "link", *arguments], {"FLWR_HOME": str(place)})
        yield _Runtime(_reached(stack, address, None, processes, place), simulation, processes)


@contextmanager
def _deployment(experiment: Experiment) -> Iterator[_Runtime]:
    """Connect to the SuperLink of a consortium, or start one here with a node for every client."""
    with ExitStack() as stack:
        if (folder := experiment.config.runtime.server) is not None:
            server = read_server(folder)
            yield _Runtime(_reached(stack, server.local_address, server.authority, None))
            return
        names = participant_names(experiment.settings)
        link_port, *ports = free_ports(1 + len(names))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="feddat-")))
        server = write_consortium(place / "consortium", names, ["127.0.0.1"], link_port)
        processes = stack.enter_context(Processes(experiment.folder.path / "logs"))
        start_link(processes, server)
        control = _reached(stack, server.local_address, server.authority, processes)
        let_in(control, server)
        for name, port in zip(names, ports, strict=True):
            keys = place / "consortium" / "clients" / name
            arguments = node_arguments(keys, server.local_address, name)
            log_file = processes.log(name).with_suffix(".jsonl")
            command = ["deploy", "node", str(port), "--log-file", str(log_file), *arguments]
            processes.start(name, command, {"FLWR_HOME": str(keys / "flwr")})
        yield _Runtime(control, processes=processes)


def start_link(processes: Processes, server: ServerFolder) -> None:
    """Start the SuperLink of a consortium."""
    home = {"FLWR_HOME": str(server.path / "state" / "flwr")}
    processes.start("superlink", ["deploy", "link", *server.link_arguments()], home)


def _reached(
    stack: ExitStack, address: str, authority: Path | None, processes: Processes | None, state: Path | None = None
) -> Control:
    control = Control(address, authority, state)
    stack.callback(control.close)
    try:
        control.wait(5.0 if processes is None else START_SECONDS)
    except DeployError as error:
        if processes is None:
            raise DeployError(f"{error}; start it with `feddat deploy server`") from None
        raise DeployError(f"{error}; see {processes.log('superlink')}") from None
    return control


def _placed(experiment: Experiment) -> RunConfig:
    """Return the configuration with the absolute path of the run's folder."""
    folder = experiment.folder.path
    return experiment.config.updated({"runs_dir": str(folder.parent.resolve()), "name": folder.name})


def _follow(experiment: Experiment, runtime: _Runtime, progress: Progress, config: AppConfig) -> dict[str, Any]:
    """Start the run, pass on its events, and return its summary at the end."""
    folder, rounds = experiment.folder, config.run.rounds
    with Tail(folder.log_file) as log:
        run = runtime.control.start_run({}, app_project(to_toml(to_flat(config))), runtime.simulation)
        try:
            while (failure := _failure(runtime, run)) is None:
                _pass_on(log, progress)
                time.sleep(PAUSE)
        except BaseException:
            with suppress(httpx.HTTPError):  # the SuperLink may be gone
                runtime.control.stop(run)
            raise
        _pass_on(log, progress)
    summary = folder.summary()
    if failure or summary is None:
        reason = (failure or "it left no summary").removeprefix("ServerApp failed with exception: ")
        raise ExperimentError(reason.removeprefix("Simulation failed with exception: "))
    progress({"event": "done", "round": rounds, "rounds": rounds, "seconds_left": 0.0, "summary": summary})
    return summary


def _failure(runtime: _Runtime, run: int) -> str | None:
    if runtime.processes is not None and (ended := runtime.processes.ended()):
        name, code = next(iter(ended.items()))
        raise DeployError(f"process {name} ended (exit code {code}); see {runtime.processes.log(name)}")
    try:
        return runtime.control.failure(run)
    except httpx.HTTPError as error:
        where = f"SuperLink {runtime.control.address}"
        raise DeployError(f"{where}: connection lost: {error}; resume the run when it is back") from None


def _pass_on(log: Tail, progress: Progress) -> None:
    for event in log.new():
        if event.get("event") in _SHOWN:
            progress(event)


def _has_ray() -> bool:
    from importlib.util import find_spec

    return find_spec("ray") is not None
