"""The folder that ``feddat deploy init`` writes: what the server's administrator keeps, and what each client is handed.

| below | for | holds |
| --- | --- | --- |
| ``authority/`` | who runs ``init`` | the authority's private key; only needed to renew the server's certificate |
| ``server/`` | the server | certificate, private key, the clients' public keys, the run's settings, how to start it |
| ``clients/NAME/`` | client NAME | its keys, the authority's certificate, ``client.yaml`` to fill in, how to start it |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml

from feddat.config import BOUNDS, PolicyConfig
from feddat.deploy import pki
from feddat.deploy.certify import certify
from feddat.deploy.errors import DeployError
from feddat.hub import parse_address
from feddat.privacy.secure_sum.identity import CERTIFICATE_FILE
from feddat.yaml_files import YamlError, parse_yaml, read_yaml

PORT = 9092
#: Loopback port of a client's SuperNode.
NODE_PORT = 9094


@dataclass(frozen=True)
class ServerFolder:
    """The server's part of a consortium.

    Attributes:
        path: the folder.
        hosts: names and addresses that the server is reached under.
        port: at which it listens.
        clients: names of all clients.
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
        """The address for this machine itself."""
        return f"127.0.0.1:{self.port}"

    def link_arguments(self) -> list[str]:
        """Return the arguments of its SuperLink."""
        state = self.path / "state"
        state.mkdir(exist_ok=True)
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
        DeployError: it is not one.
    """
    try:
        raw = read_yaml(path / "server.yaml")
        hosts, clients = tuple(raw["hosts"]), tuple(raw["clients"])
        if others := [name for name in (*hosts, *clients) if not isinstance(name, str)]:
            raise DeployError(f"{path / 'server.yaml'}: {others[0]}: expected a name; put it in quotes")
        return ServerFolder(path.resolve(), hosts, int(raw["port"]), clients)
    except OSError as error:
        raise DeployError(f"{path}: not a server folder of `feddat deploy init`: {error.strerror}") from None
    except YamlError as error:
        raise DeployError(f"{path / 'server.yaml'}: {error}") from None
    except (KeyError, TypeError, ValueError):
        raise DeployError(f"{path / 'server.yaml'}: expected hosts, port and clients") from None


def write_consortium(
    folder: Path,
    clients: Sequence[str],
    hosts: Sequence[str],
    port: int = PORT,
    model: tuple[str, Mapping[str, str]] | None = None,
    server_days: int = pki.SERVER_DAYS,
) -> ServerFolder:
    """Write everything that a consortium needs before its first run; nothing is started.

    Args:
        folder: new or empty.
        clients: their names.
        hosts: names and addresses that clients reach the server under, the one they shall use first.
        port: of the server.
        model: name or folder of the foundation model, and the hashes by which clients tell that theirs is the same.
        server_days: for how long the server's certificate is good.

    Raises:
        DeployError: the folder is not empty, or a name cannot be used.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DeployError(f"{folder}: not empty; choose another folder")
    if not clients or len(set(clients)) != len(clients):
        raise DeployError(f"clients: expected different names, got {', '.join(clients) or 'none'}")
    for name in clients:
        if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
            raise DeployError(f"client {name!r}: expected letters from a to z, digits, - and _")
    authority = pki.new_authority("feddat consortium")
    server = ServerFolder((folder / "server").resolve(), tuple(hosts), port, tuple(clients))
    for path in (folder / "authority", server.path / "clients", *(folder / "clients" / name for name in clients)):
        path.mkdir(parents=True)
    pki.write_private_key(folder / "authority" / "ca.key", authority.key)
    certificate, key = pki.server_certificate(authority, [*hosts, "localhost", "127.0.0.1"], server_days)
    pki.write_certificate(server.path / "server.crt", certificate)
    pki.write_private_key(server.path / "server.key", key)
    name, hashes = model or ("vilt-mini", {})
    values: dict[str, Any] = {
        "clients": list(clients),
        "hosts": list(hosts),
        "host": hosts[0],
        "port": port,
        "node_port": NODE_PORT,
        "model": name,
        "model_weights": hashes.get("weights", ""),
        "hub_model": parse_address(name, "model") is not None and not Path(name).is_dir(),
        "until": certificate.not_valid_after_utc.strftime("%Y-%m-%d"),
        "policy": policy_lines(),
    }
    for place in (folder / "authority", server.path, *(folder / "clients" / client for client in clients)):
        pki.write_certificate(place / "ca.crt", authority.certificate)
    _render("README.md", folder / "README.md", values)
    for template in ("server.yaml", "run.yaml", "start.sh", "feddat-server.service", "compose.yaml", "README.md"):
        _render(f"server/{template}", server.path / template, values)
    for client in clients:
        place = folder / "clients" / client
        pki.write_key_pair(place, "node")
        certify(authority, place / "node.pub", client, place / CERTIFICATE_FILE, server_days)
        (server.path / "clients" / f"{client}.pub").write_bytes((place / "node.pub").read_bytes())
        (place / "model.json").write_text(json.dumps({"model": name, **hashes}, indent=2) + "\n", encoding="utf-8")
        for template in ("client.yaml", "start.sh", "feddat-client.service", "compose.yaml", "README.md"):
            _render(f"client/{template}", place / template, values | {"client": client})
    return server


def policy_lines() -> str:
    """Return a client's default policy as lines of its file, every key with its meaning."""
    lines = ["policy:"]
    for key, info in PolicyConfig.model_fields.items():
        if key == "bounds":
            lines.append(f"  bounds:  # {info.description}")
            lines += [f"    {setting}: {_flow(list(pair))}" for setting, pair in BOUNDS.items()]
            continue
        value = list(info.default) if isinstance(info.default, tuple) else info.default
        lines.append(f"  {key}: {_flow(value)}  # {info.description}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def node_arguments(
    place: Path, address: str, client: str, site: Path | None = None, authority: Path | None = None
) -> list[str]:
    """Return the arguments of a client's SuperNode.

    Args:
        place: folder with its key pair and the authority's certificate.
        address: ``HOST:PORT`` of the SuperLink.
        client: its name.
        site: its client.yaml; ``None``: its data is where the run's configuration says.
        authority: certificate to know the server by; default: the folder's.
    """
    config = f'client="{client}" keys="{place.resolve()}"'
    config += f' data="{site.resolve()}"' if site is not None else ""
    return [
        *("--superlink", address),
        *("--root-certificates", str(authority or place / "ca.crt")),
        *("--auth-supernode-private-key", str(place / "node.key")),
        *("--auth-supernode-public-key", str(place / "node.pub")),
        *("--node-config", config),
    ]


def _render(template: str, to: Path, values: Mapping[str, Any]) -> None:
    source = resources.files("feddat.deploy") / "templates" / template
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["yaml"] = _as_yaml
    to.write_text(environment.from_string(source.read_text(encoding="utf-8")).render(values), encoding="utf-8")
    if to.suffix == ".sh":
        to.chmod(0o755)


def _as_yaml(text: str) -> str:
    """Return a text as YAML reads it back: in quotes where it would read a number, a date or ``no`` otherwise."""
    try:
        plain = parse_yaml(f"[{text}]") == [text] and parse_yaml(f"{text}: 1") == {text: 1}
    except YamlError:
        plain = False
    return text if plain else json.dumps(text, ensure_ascii=False)
