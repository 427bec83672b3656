"""Control a SuperLink from its own machine: admit clients; start, watch and stop runs."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.constant import NodeStatus
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from feddat.admitted import FOLDER, admitted_keys, admitted_names, revoked_keys
from feddat.deploy.errors import DeployError
from feddat.deploy.names import CLIENT_APP, SERVER_APP
from feddat.deploy.tokens import CONTROL_FILE, TokenInterceptor
from feddat.models.folder import first_line

if TYPE_CHECKING:
    from feddat.deploy.folder import ServerFolder


class Control:
    """The SuperLink's Control interface.

    Args:
        address: ``HOST:PORT``.
        authority: PEM certificate of the authority that signed the server's; ``None``: no TLS, on this machine.
        state: folder where the SuperLink keeps the token that identifies this account; default: ``state`` beside the
            authority's certificate, as in a server's folder.
    """

    def __init__(self, address: str, authority: Path | None, state: Path | None = None) -> None:
        self.address = address
        if state is None and authority is not None:
            state = authority.parent / "state"
        token = [] if state is None else [TokenInterceptor(state / CONTROL_FILE)]
        self._client = ControlHttpClient.from_server_address(
            server_address=address,
            insecure=authority is None,
            root_certificates=None if authority is None else authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="feddat"), *token],
        )
        self._authority = authority

    def wait(self, seconds: float) -> None:
        """Wait until the SuperLink answers.

        Raises:
            DeployError: it does not answer within ``seconds``.
        """
        end = time.monotonic() + seconds
        scheme, verify = ("http", False) if self._authority is None else ("https", str(self._authority))
        while True:
            try:
                if httpx.get(f"{scheme}://{self.address}/health", verify=verify, timeout=5).is_success:
                    return
                problem = "it answers, but not as a SuperLink"
            except httpx.HTTPError as error:
                problem = first_line(error)
            if time.monotonic() > end:
                raise DeployError(f"SuperLink {self.address}: not reachable after {seconds:.0f} s: {problem}")
            time.sleep(0.3)

    def register(self, name: str, key: bytes) -> None:
        """Admit the node with a public key, in PEM, under a client's name.

        Raises:
            DeployError: the SuperLink refuses the key. It accepts no key twice, not even one that was removed.
        """
        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))
        except httpx.HTTPStatusError as error:
            raise DeployError(f"client {name}: its key is refused: {_reason(error)}") from None

    def unregister(self, node: int) -> None:
        """Remove a node at once and for good; its key is never admitted again.

        Raises:
            DeployError: the SuperLink refuses.
        """
        try:
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            raise DeployError(f"node {node}: cannot be removed: {_reason(error)}") from None

    def nodes(self) -> list[NodeInfo]:
        """Return all nodes that were ever admitted, with their names, keys and status."""
        return list(self._client.ListNodes(ListNodesRequest()).nodes_info)

    def start_run(self, settings: Mapping[str, Any], project: str, simulation: SimulationConfig | None = None) -> int:
        """Start a run.

        Args:
            settings: settings of the run, in Flower's form.
            project: text of the app's ``pyproject.toml``.
            simulation: number of virtual clients, and the resources for them; ``None`` for real clients.

        Returns:
            Flower's id of the run.

        Raises:
            DeployError: the SuperLink refuses the request, does not answer, or did not start the run.
        """
        content, _ = build_fab_from_files({"pyproject.toml": project.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        request = StartRunRequest(
            fab=fab_to_proto(fab),
            override_config=user_config_to_proto(dict(settings)),
            override_federation_config=simulation,
        )
        try:
            response = self._client.StartRun(request)
        except httpx.HTTPStatusError as error:
            raise DeployError(f"SuperLink {self.address}: the run is refused: {_reason(error)}") from None
        except httpx.HTTPError as error:
            raise DeployError(f"SuperLink {self.address}: the run cannot be started: {first_line(error)}") from None
        if not response.HasField("run_id"):
            raise DeployError(f"SuperLink {self.address}: did not start the run")
        return int(response.run_id)

    def failure(self, run: int) -> str | None:
        """Return ``None`` while a run is active, ``""`` when it has completed, and otherwise why it failed."""
        response = self._client.ListRuns(ListRunsRequest(run_id=run))
        status = response.run_dict[run].status
        if status.status != "finished":
            return None
        return "" if status.sub_status == "completed" else status.details or status.sub_status

    def stop(self, run: int) -> None:
        """Stop a run. Its folder stays, and the run can be resumed."""
        self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def let_in(control: Control, server: ServerFolder) -> list[str]:
    """Admit the clients whose keys are in a consortium's folder, and remove those whose keys were revoked.

    A removed key can never be admitted again, so a key whose file is merely missing is left alone.

    Returns:
        One line for each difference from the folder that remains; everything else has been applied.

    Raises:
        DeployError: the SuperLink refuses a key, or does not answer as it should.
    """
    try:
        return _let_in(control, server)
    except httpx.HTTPError as error:
        raise DeployError(f"SuperLink {control.address}: clients cannot be let in: {first_line(error)}") from None


def _let_in(control: Control, server: ServerFolder) -> list[str]:
    keys, revoked, nodes = admitted_keys(server.path), revoked_keys(server.path), control.nodes()
    nodes = [node for node in nodes if node.status != NodeStatus.UNREGISTERED or node.public_key in keys.values()]
    problems = [f"client {n}: its key cannot be read" for n in admitted_names(server.path) if n not in keys]
    for name, key in keys.items():
        same = next((node for node in nodes if node.public_key == key), None)
        if same is None:
            _register(control, name, key)
        elif same.status == NodeStatus.UNREGISTERED:
            problems.append(f"client {name}: its key was removed from this SuperLink for good; it needs a new one")
        elif same.name != name:
            problems.append(f"client {name}: its key was admitted as {same.name}; revoke it and admit a new one")
    for node in nodes:
        if node.public_key in revoked:
            control.unregister(node.node_id)
        elif node.public_key not in keys.values():
            problems.append(f"client {node.name}: its key is no longer in {server.path / FOLDER}; runs turn it away")
    return problems


def _register(control: Control, name: str, key: bytes) -> None:
    """Admit a key, unless another process has just done so: a starting SuperLink, or `feddat deploy admit`."""
    try:
        control.register(name, key)
    except DeployError:
        if not any((node.public_key, node.name) == (key, name) for node in control.nodes()):
            raise


def _reason(error: httpx.HTTPStatusError) -> str:
    problem = FlowerError.from_json(error.response.text)
    return str(error.response.text[:200] if problem is None else problem)


def app_project(config_table: str) -> str:
    """Return the ``pyproject.toml`` of the app, which carries settings and no code.

    Args:
        config_table: lines of its settings table.
    """
    return f"""[project]
name = "feddat"
version = "1.0.0"
description = "Federated fine-tuning with the Dual-Adapter Teacher; every machine runs the package it has installed"

[tool.flwr.app]
publisher = "feddat"

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
{config_table}"""
