"""The folder of one client: its keys, the certificate that identifies the server, and a ``client.yaml`` to fill in.

``feddat deploy join`` writes it on the client's own machine. The private key is made there and stays there. A renewed
key is kept beside the old one until the server accepts it: its administrator may need days to admit it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from feddat.config import BOUNDS, PolicyConfig
from feddat.config.privacy import Level
from feddat.deploy import pki
from feddat.deploy.enrolment import Invitation, check_name, new_request
from feddat.deploy.errors import DeployError
from feddat.deploy.rendering import render
from feddat.files import whole_folder

#: Loopback port of a client's SuperNode.
NODE_PORT = 9094
#: File names of a client's key pair, and of the pair that the server does not know yet.
KEYS, NEW_KEYS = "node", "node-new"
_TEMPLATES = ("client.yaml", "start.sh", "feddat-client.service", "compose.yaml", "README.md")


def join(
    invitation: Invitation, name: str, folder: Path, privacy: tuple[Level, float] | None = None
) -> tuple[Path, str]:
    """Write a client's folder with a new key; return the path of its request, and the key's fingerprint.

    Args:
        invitation: the invitation to the consortium. The fingerprint of its authority must have been compared.
        name: name of the client.
        folder: the folder to write, completely or not at all.
        privacy: the least level and the largest ε that the client's policy accepts from a run; default: those of the
            invitation.

    Raises:
        DeployError: the name is not valid, or the folder is not empty.
    """
    check_name(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DeployError(f"{folder}: not empty; choose another folder")
    key = pki.new_key()
    with whole_folder(folder) as place:
        place.chmod(0o700)
        pki.write_key_pair(place, KEYS, key)
        write_client(place, invitation, name, joins=True, privacy=privacy)
        pki.write_request(place / f"{name}.csr", new_request(name, key, invitation.authority))
    return folder / f"{name}.csr", pki.key_fingerprint(key.public_key())


def write_client(
    place: Path,
    invitation: Invitation,
    name: str,
    joins: bool = False,
    privacy: tuple[Level, float] | None = None,
) -> None:
    """Write everything in a client's folder except its keys.

    Args:
        place: the folder, which must exist.
        invitation: the invitation to the consortium.
        name: name of the client.
        joins: the server does not know the client yet.
        privacy: see :func:`join`.
    """
    privacy = invitation.privacy if privacy is None else privacy
    host, _, port = invitation.server.rpartition(":")
    model = invitation.model
    values: dict[str, Any] = {
        "client": name,
        "host": host,
        "port": port,
        "node_port": NODE_PORT,
        "model": model,
        "hub_model": invitation.hub_model,
        "policy": policy_lines(
            privacy=privacy[0],
            epsilon=privacy[1],
            secret_seeds=privacy[0] != "none",
            secure_aggregation="required" if privacy[0] == "client" else "optional",
        ),
        "privacy": privacy[0],
        "joins": joins,
    }
    pki.write_certificate(place / "ca.crt", invitation.authority)
    content = json.dumps({"model": model, **invitation.hashes}, indent=2) + "\n"
    (place / "model.json").write_text(content, encoding="utf-8")
    for template in _TEMPLATES:
        render(f"client/{template}", place / template, values)


def renew_key(folder: Path, name: str) -> tuple[Path, str]:
    """Make a client's next key; return the path of its request, signed by the old key, and the new key's fingerprint.

    The client keeps using its old key. When the server accepts the new one, :func:`use_new_key` replaces the old key.
    Called again before that, this function makes no further key: the request for this one may be on its way.

    Raises:
        CertificateError: the old key or the authority's certificate cannot be read.
    """
    old, authority = pki.read_client_key(folder / f"{KEYS}.key"), pki.read_certificate(folder / "ca.crt")
    key = pki.read_client_key(folder / f"{NEW_KEYS}.key") if has_new_key(folder) else pki.new_key()
    pki.write_key_pair(folder, NEW_KEYS, key)
    path = folder / f"{name}.csr"
    pki.write_request(path, new_request(name, key, authority, old))
    return path, pki.key_fingerprint(key.public_key())


def has_new_key(folder: Path) -> bool:
    """Return whether a client has a new key that the server has not accepted yet."""
    return (folder / f"{NEW_KEYS}.key").is_file()


def use_new_key(folder: Path) -> None:
    """Replace a client's old key, which the server no longer accepts, with its new one."""
    private = folder / f"{NEW_KEYS}.key"
    key = pki.read_client_key(private)
    private.replace(folder / f"{KEYS}.key")
    # If the process is killed here, the client writes the public half at its next start (`mend_key_pair`).
    (folder / f"{NEW_KEYS}.pub").unlink(missing_ok=True)
    pki.write_public_key(folder / f"{KEYS}.pub", key.public_key(), KEYS)


def mend_key_pair(folder: Path) -> None:
    """Write the public half of a client's key again if it is missing or belongs to an earlier key.

    Raises:
        CertificateError: the private key cannot be read.
    """
    key, public = pki.read_client_key(folder / f"{KEYS}.key").public_key(), folder / f"{KEYS}.pub"
    if not public.is_file() or pki.read_public_key(public) != key:
        pki.write_public_key(public, key, KEYS)


def policy_lines(**values: Any) -> str:
    """Return a client's policy as YAML lines, each key with its meaning; keys not in ``values`` have their defaults."""
    lines = ["policy:"]
    for key, info in PolicyConfig.model_fields.items():
        if key == "bounds":
            lines.append(f"  bounds:  # {info.description}")
            lines += [f"    {setting}: {_flow(list(pair))}" for setting, pair in BOUNDS.items()]
            continue
        value = values.get(key, info.default)
        value = list(value) if isinstance(value, tuple) else value
        lines.append(f"  {key}: {_flow(value)}  # {info.description}")
    return "\n".join(lines)


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()


def node_arguments(
    place: Path,
    address: str,
    client: str,
    site: Path | None = None,
    keys: str = KEYS,
) -> list[str]:
    """Return the arguments of a client's SuperNode.

    Args:
        place: folder with the client's key pair and the authority's certificate.
        address: ``HOST:PORT`` of the SuperLink.
        client: name of the client.
        site: its client.yaml; ``None``: the run's configuration says where its data is.
        keys: file name of the key pair.
    """
    config = f'client="{client}" keys="{place.resolve()}"' + (f' data="{site.resolve()}"' if site is not None else "")
    return [
        *("--superlink", address),
        *("--root-certificates", str(place / "ca.crt")),
        *("--auth-supernode-private-key", str(place / f"{keys}.key")),
        *("--auth-supernode-public-key", str(place / f"{keys}.pub")),
        *("--node-config", config),
    ]
