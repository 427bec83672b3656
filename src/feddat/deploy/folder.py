"""The folder that ``feddat deploy init`` writes, for the server's administrator and for clients.

| inside | for | holds |
| --- | --- | --- |
| ``authority/`` | whoever runs ``init`` | the authority's private key, and the clients' certificates that it signed |
| ``server/`` | the server | certificate, private key, the clients' public keys, the run's settings, start files |
| ``invitation.json`` | every client | input of ``feddat deploy join``, which makes a folder on the client's machine |
| ``clients/NAME/`` | trials on one machine | folders of clients whose keys were made here |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feddat.admitted import admitted_names
from feddat.config.privacy import Level
from feddat.deploy import pki
from feddat.deploy.certify import Issued
from feddat.deploy.client_folder import KEYS, node_arguments, policy_lines, write_client
from feddat.deploy.enrolment import ClientRequest, Invitation, check_hosts, check_name, new_request, write_invitation
from feddat.deploy.errors import DeployError
from feddat.deploy.rendering import render
from feddat.files import private_folder
from feddat.hub import parse_address
from feddat.privacy.secure_sum.identity import CERTIFICATE_FILE
from feddat.privacy.secure_sum.terms import LEAST_SUM
from feddat.yaml_files import YamlError, read_yaml

__all__ = ["ServerFolder", "node_arguments", "policy_lines", "read_server", "write_consortium", "write_server"]

PORT = 9092


@dataclass(frozen=True)
class ServerFolder:
    """The server's part of a consortium.

    Attributes:
        path: the folder.
        hosts: names and addresses of the server.
        port: port that it listens on.
        clients: names of the admitted clients.
    """

    path: Path
    hosts: tuple[str, ...]
    port: int
    clients: tuple[str, ...]

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.path / "ca.crt"

    @property
    def local_address(self) -> str:
        """The server's address on its own machine."""
        return f"127.0.0.1:{self.port}"

    def link_arguments(self) -> list[str]:
        """Return the arguments of the SuperLink."""
        state = private_folder(self.path / "state")
        return [
            *("--ssl-ca-certfile", str(self.authority)),
            *("--ssl-certfile", str(self.path / "server.crt")),
            *("--ssl-keyfile", str(self.path / "server.key")),
            *("--host", "127.0.0.1" if set(self.hosts) <= {"127.0.0.1", "localhost"} else "0.0.0.0"),
            *("--port", str(self.port)),
            *("--database", str(state / "superlink.db")),
            "--enable-supernode-auth",
        ]


def read_server(path: Path) -> ServerFolder:
    """Read a server's folder.

    Raises:
        DeployError: it is not a server's folder.
    """
    try:
        raw = read_yaml(path / "server.yaml")
        hosts, clients = tuple(raw["hosts"]), tuple(raw.get("clients", ()))
        if others := [name for name in (*hosts, *clients) if not isinstance(name, str)]:
            raise DeployError(f"{path / 'server.yaml'}: {others[0]}: expected a name; put it in quotes")
        there = admitted_names(path)
        order = [*(name for name in clients if name in there), *(name for name in there if name not in clients)]
        found = ServerFolder(path.resolve(), hosts, int(raw["port"]), tuple(order))
    except OSError as error:
        raise DeployError(f"{path}: not a server folder of `feddat deploy init`: {error.strerror}") from None
    except YamlError as error:
        raise DeployError(f"{path / 'server.yaml'}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError):
        raise DeployError(f"{path / 'server.yaml'}: expected hosts and port") from None
    try:
        check_hosts(found.hosts)
    except DeployError as error:
        raise DeployError(f"{path / 'server.yaml'}: {error}") from None
    return found


def write_server(
    folder: Path,
    hosts: Sequence[str],
    port: int = PORT,
    model: tuple[str, Mapping[str, str]] | None = None,
    server_days: int = pki.SERVER_DAYS,
    passphrase: str | None = None,
    authority: Path | None = None,
    clients: Sequence[str] = (),
    privacy: tuple[Level, float] = ("none", 8.0),
) -> tuple[ServerFolder, Invitation]:
    """Write a new consortium: authority, server, and the invitation for clients. Start nothing.

    Args:
        folder: a new or empty folder.
        hosts: names and addresses at which clients reach the server; the first is the one that they use.
        port: port of the server.
        model: name or folder of the foundation model, and the hashes by which clients check that theirs is the same.
        server_days: number of days that the server's certificate is valid.
        passphrase: encrypts the authority's key; ``None``: the key is not encrypted.
        authority: folder of the authority, new or empty; default: inside ``folder``.
        clients: names of the clients whose keys are made here as well.
        privacy: the level and the ε that the written run settings promise, and that clients require by default.

    Raises:
        DeployError: a folder is not empty, or there are no hosts, or one is not valid.
    """
    keeper = authority or folder / "authority"
    for place in (folder, keeper):
        if place.exists() and any(place.iterdir()):
            raise DeployError(f"{place}: not empty; choose another folder")
    if not hosts:
        raise DeployError("host: expected the name or address at which clients reach the server")
    check_hosts(hosts)
    signer = pki.new_authority("feddat consortium")
    server = ServerFolder((folder / "server").resolve(), tuple(hosts), port, tuple(clients))
    for place in (folder, keeper, server.path, server.path / "clients"):
        private_folder(place)
    pki.write_private_key(keeper / "ca.key", signer.key, passphrase=passphrase)
    certificate, key = pki.server_certificate(signer, own_hosts(hosts), server_days)
    pki.write_certificate(server.path / "server.crt", certificate)
    pki.write_private_key(server.path / "server.key", key)
    for place in (keeper, server.path):
        pki.write_certificate(place / "ca.crt", signer.certificate)
    name, hashes = model or ("vilt-mini", {})
    of_hub = parse_address(name, "model") is not None and not Path(name).is_dir()
    invitation = Invitation(f"{hosts[0]}:{port}", name, of_hub, signer.certificate, hashes, privacy)
    write_invitation(folder / "invitation.json", invitation, signer.key)
    values: dict[str, Any] = {
        "clients": list(clients),
        "hosts": list(hosts),
        "host": hosts[0],
        "port": port,
        "model": name,
        "model_weights": hashes.get("weights", ""),
        "until": certificate.not_valid_after_utc.strftime("%Y-%m-%d"),
        "authority": pki.certificate_fingerprint(signer.certificate),
        "keeper": str(keeper),
        "encrypted": passphrase is not None,
        "privacy": privacy[0],
        "epsilon": privacy[1],
    }
    render("README.md", folder / "README.md", values)
    for template in ("server.yaml", "run.yaml", "start.sh", "feddat-server.service", "compose.yaml", "README.md"):
        render(f"server/{template}", server.path / template, values)
    return server, invitation


def write_consortium(
    folder: Path,
    clients: Sequence[str],
    hosts: Sequence[str],
    port: int = PORT,
    model: tuple[str, Mapping[str, str]] | None = None,
    server_days: int = pki.SERVER_DAYS,
    passphrase: str | None = None,
    authority: Path | None = None,
    privacy: tuple[Level, float] = ("none", 8.0),
) -> ServerFolder:
    """Write a consortium with the keys of all its clients, for trials on one machine; see also :func:`write_server`.

    Whoever runs this could pose as any client. Clients on their own machines make their keys there
    (:func:`feddat.deploy.client_folder.join`). Every client's policy requires ``privacy``.

    Raises:
        DeployError: a folder is not empty, or a name is not valid.
    """
    if not clients or len(set(clients)) != len(clients):
        raise DeployError(f"clients: expected different names, got {', '.join(clients) or 'none'}")
    if privacy[0] == "client" and len(clients) < LEAST_SUM:
        raise DeployError(f"clients: {len(clients)}, expected at least {LEAST_SUM}: --privacy client needs secure sums")
    for name in clients:
        check_name(name)
    server, invitation = write_server(folder, hosts, port, model, server_days, passphrase, authority, clients, privacy)
    private_folder(folder / "clients")
    keeper = authority or folder / "authority"
    issued = Issued(keeper, pki.read_authority(keeper, passphrase))
    for name in clients:
        place, key = private_folder(folder / "clients" / name), pki.new_key()
        pki.write_key_pair(place, KEYS, key)
        pki.write_request(place / f"{name}.csr", new_request(name, key, invitation.authority))
        certificate, _ = issued.certify(ClientRequest(name, key.public_key()), days=server_days)
        pki.write_certificate(place / CERTIFICATE_FILE, certificate)
        write_client(place, invitation, name, privacy=privacy)
        (server.path / "clients" / f"{name}.pub").write_bytes((place / f"{KEYS}.pub").read_bytes())
    return server


def own_hosts(hosts: Sequence[str]) -> list[str]:
    """Return the names and addresses for a server's certificate: ``hosts``, and those of the local machine."""
    return list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
