"""What the machine of a SuperLink may ask of it: let a client in, start a run, say how it goes, stop it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, StartRunRequest, StopRunRequest
from flwr.proto.federation_config_pb2 import SimulationConfig
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from feddat.deploy.errors import DeployError
from feddat.deploy.names import CLIENT_APP, SERVER_APP
from feddat.deploy.private import CONTROL_FILE, TokenInterceptor
from feddat.models.folder import first_line

if TYPE_CHECKING:
    from feddat.deploy.folder import ServerFolder


class Control:
    """The SuperLink's Control interface.

    Args:
        address: ``HOST:PORT``.
        authority: PEM certificate of the authority that signed the server's; ``None``: without TLS, on this machine.
        state: folder where the SuperLink keeps the token by which it knows this account; default: the one beside the
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
            DeployError: it does not, after so many seconds.
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

    def register(self, public_key: Path) -> None:
        """Let the node with a public key in; one that is in already stays in.

        Raises:
            DeployError: the key cannot be read, or is refused.
        """
        try:
            key = serialization.load_ssh_public_key(public_key.read_bytes())
        except (OSError, ValueError) as error:
            raise DeployError(f"public key {public_key}: {first_line(error)}") from None
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise DeployError(f"public key {public_key}: not on an elliptic curve")
        try:
            self._client.RegisterNode(RegisterNodeRequest(public_key=public_key_to_bytes(key), name=public_key.stem))
        except httpx.HTTPStatusError as error:
            problem = FlowerError.from_json(error.response.text)
            if problem is None or problem.code != ApiErrorCode.PUBLIC_KEY_ALREADY_IN_USE:
                raise DeployError(f"public key {public_key}: refused: {error.response.text[:200]}") from None

    def start_run(self, settings: Mapping[str, Any], project: str, simulation: SimulationConfig | None = None) -> int:
        """Start a run.

        Args:
            settings: of the run, as Flower carries them.
            project: text of the app's ``pyproject.toml``.
            simulation: how many virtual clients on how much of this machine; ``None`` for real ones.

        Returns:
            Flower's id of the run.
        """
        content, _ = build_fab_from_files({"pyproject.toml": project.encode()})
        fab = Fab(hashlib.sha256(content).hexdigest(), content, {})
        response = self._client.StartRun(
            StartRunRequest(
                fab=fab_to_proto(fab),
                override_config=user_config_to_proto(dict(settings)),
                override_federation_config=simulation,
            )
        )
        if not response.HasField("run_id"):
            raise DeployError(f"SuperLink {self.address}: did not start the run")
        return int(response.run_id)

    def failure(self, run: int) -> str | None:
        """Return ``None`` while a run goes on, ``""`` when it has ended well, and else why it has not."""
        response = self._client.ListRuns(ListRunsRequest(run_id=run))
        status = response.run_dict[run].status
        if status.status != "finished":
            return None
        return "" if status.sub_status == "completed" else status.details or status.sub_status

    def stop(self, run: int) -> None:
        """Stop a run; its folder stays, and it can be resumed."""
        self._client.StopRun(StopRunRequest(run_id=run))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def let_in(control: Control, server: ServerFolder) -> None:
    """Let the clients of a consortium in."""
    for key in sorted((server.path / "clients").glob("*.pub")):
        control.register(key)


def app_project(config_table: str) -> str:
    """Return the ``pyproject.toml`` of the app: it brings settings along and no code.

    Args:
        config_table: lines of its table of settings.
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
