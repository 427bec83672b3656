"""Commands of ``feddat deploy`` about keys and certificates: join, admit, revoke, renew, sign and certify."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from feddat.cli.common import Json, err, fail, out, print_json, print_paths, say_warning

if TYPE_CHECKING:
    from feddat.config.privacy import Level
    from feddat.deploy.membership import Members
    from feddat.deploy.pki import Authority

#: Minimum length of a passphrase, in characters.
_SHORTEST = 12

_PRIVACY = (
    "Minimum privacy that clients require of a run: none; of whole clients: central (the server adds noise) or client "
    "(clients add shares of it); of records: shared or all (docs/privacy.md)."
)
Privacy = Annotated[str, typer.Option(metavar="LEVEL", help=_PRIVACY)]
Epsilon = Annotated[float, typer.Option(min=0.01, help="Maximum epsilon that clients allow a run.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--ca-passphrase-file",
        metavar="FILE",
        help="File whose first line is the passphrase of the authority's key; default: ask on the terminal.",
    ),
]
ServerDir = Annotated[Path, typer.Option("--folder", "-f", metavar="SERVER_DIR", help="The server's folder.")]
Fingerprint = Annotated[
    str | None,
    typer.Option(help="Expected fingerprint, which you received another way; default: compare on the terminal."),
]
Authority_ = Annotated[
    Path | None, typer.Option("--authority", metavar="DIR", help="Folder of the authority, with its key.")
]
AuthorityDir = Annotated[Path, typer.Option("--authority", metavar="DIR", help="The authority's folder, with its key.")]


def join(
    invitation: Annotated[Path, typer.Argument(metavar="INVITATION", help="The consortium's invitation.json.")],
    name: Annotated[str, typer.Option(help="Name of this client: letters a to z, digits, - and _.")],
    to: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="DIR", help="New folder to write.", show_default="the name")
    ] = None,
    fingerprint: Fingerprint = None,
    privacy: Annotated[
        str | None, typer.Option(help=_PRIVACY, show_default="the invitation's, or none", metavar="LEVEL")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(min=0.01, help="Maximum epsilon that this client allows a run.", show_default="the invitation's"),
    ] = None,
) -> None:
    """On a client's machine: create its key, its folder, and a request for the server's administrator."""
    from feddat.deploy.client_folder import join as join_consortium
    from feddat.deploy.enrolment import read_invitation
    from feddat.deploy.pki import certificate_fingerprint

    invited = read_invitation(invitation)
    found = certificate_fingerprint(invited.authority)
    _compare("the authority", found, fingerprint, "whoever ran `feddat deploy init`")
    level = invited.privacy[0] if privacy is None else privacy_level(privacy)
    required = (level, invited.privacy[1] if epsilon is None else epsilon)
    request, own = join_consortium(invited, name, to or Path(name), required)
    print_paths(folder=request.parent, request=request)
    _compare_privacy(invited.privacy, required)
    tell_fingerprint("this client's fingerprint", own)
    say_note(f"send {request.name} to the server's administrator, and tell them the fingerprint another way (by phone)")


def admit(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The client's NAME.csr.")],
    folder: ServerDir = Path(),
    fingerprint: Fingerprint = None,
    again: Annotated[
        bool, typer.Option("--again", help="Accept this key for a name that was revoked or has another key.")
    ] = False,
) -> None:
    """On the server: admit a client, or accept its new key, while the SuperLink keeps running."""
    from feddat.deploy.enrolment import read_client_request
    from feddat.deploy.folder import read_server
    from feddat.deploy.membership import Members
    from feddat.deploy.pki import read_certificate

    server = read_server(folder)
    asked, known = read_client_request(request, read_certificate(server.authority)), Members(server)
    if known.is_new(asked):
        _compare(f"client {asked.name}", asked.fingerprint, fingerprint, "the client's administrator")
    out.print(f"client {asked.name} {known.admit(asked, again)}", markup=False, soft_wrap=True)
    tell_fingerprint("fingerprint", asked.fingerprint)
    _tell_link(known, "it admits the client when it starts")


def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the client.")],
    folder: ServerDir = Path(),
    authority: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the authority: revoke the client's certificates instead."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """On the server: exclude a client permanently. With --authority: revoke its certificates for secure sums."""
    if authority is not None:
        _revoke_certificates(name, authority, passphrase_file)
        return
    from feddat.deploy.folder import read_server
    from feddat.deploy.membership import Members

    known = Members(read_server(folder))
    key = known.revoke(name)
    out.print(
        f"client {name} is revoked; its key {key} is never admitted again",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    _tell_link(known, "it refuses the client when it starts")


def _revoke_certificates(name: str, authority: Path, passphrase_file: Path | None) -> None:
    from feddat.deploy.certify import Issued

    issued = Issued(authority, read_signer(authority, passphrase_file))
    count = issued.revoke(name)
    out.print(f"client {name}: {count} certificate{'s'[: count != 1]} revoked", markup=False, highlight=False)
    print_paths(revoked=issued.list)
    say_note(
        f"first run `feddat deploy revoke {name}` on the server, then send {issued.list.name} to all clients: while "
        f"the server still offers {name}, clients that have the list take no part in secure sums"
    )


def members(folder: ServerDir = Path(), json: Json = False) -> None:
    """On the server: list admitted and revoked clients with the fingerprints of their keys."""
    from feddat.deploy.folder import read_server
    from feddat.deploy.membership import Members
    from feddat.deploy.pki import key_fingerprint

    known = Members(read_server(folder))
    keys = {name: key_fingerprint(key) for name in known.names() if (key := known.key(name)) is not None}
    revoked = known.revoked()
    if json:
        print_json({"clients": keys, "revoked": revoked})
        return
    shown = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("client", "key", "status"):
        shown.add_column(heading, no_wrap=True)
    for name, shown_key in keys.items():
        shown.add_row(name, shown_key, "admitted")
    for name, old in revoked.items():
        for shown_key in old:
            shown.add_row(name, shown_key, "revoked")
    out.print(shown)


def renew(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a server or a client.")],
    authority: Authority_ = None,
    passphrase_file: PassphraseFile = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Server: certificate from `feddat deploy sign`.")
    ] = None,
) -> None:
    """Give a server a new certificate, or a client a new key, without stopping it."""
    if (folder / "client.yaml").is_file():
        if authority is not None or certificate is not None:
            raise typer.Exit(fail(f"{folder} is a client's folder; --authority and --certificate are for servers", 2))
        _renew_client(folder)
        return
    from feddat.deploy import renewal
    from feddat.deploy.folder import read_server

    server = read_server(folder)
    if certificate is not None:
        found = renewal.install(server, certificate)
    elif authority is not None:
        found = renewal.renew(server, read_signer(authority, passphrase_file))
    else:
        request = renewal.request_certificate(server)
        print_paths(request=request)
        tell_fingerprint("the server's fingerprint", renewal.read_server_request(request).fingerprint)
        say_note(
            "on the machine with the authority's key, run: feddat deploy sign server.csr --authority DIR, and compare "
            f"the fingerprint; then here: feddat deploy renew {folder} --certificate server.crt"
        )
        return
    out.print(f"the server's certificate is valid until {found.not_valid_after_utc:%Y-%m-%d}", markup=False)
    say_note("a running SuperLink uses it within seconds; clients need to do nothing")


def sign(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The server's server.csr.")],
    authority: AuthorityDir,
    to: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Certificate to write.")] = Path("server.crt"),
    fingerprint: Fingerprint = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """On the machine with the authority's key: issue the certificate that a server requests."""
    from feddat.deploy.renewal import read_server_request
    from feddat.one_line import one_line

    asked = read_server_request(request)
    hosts = one_line(", ".join(asked.hosts))
    out.print(f"{request} asks for a certificate for {hosts}", markup=False, soft_wrap=True)
    _compare("the server", asked.fingerprint, fingerprint, "the server's administrator")
    asked.sign(read_signer(authority, passphrase_file), to)
    out.print(f"{to} is a certificate for {hosts}", markup=False, soft_wrap=True)


def certify(
    request: Annotated[Path, typer.Argument(metavar="REQUEST", help="The client's NAME.csr.")],
    authority: AuthorityDir,
    to: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Certificate to write.")] = Path("node.crt"),
    fingerprint: Fingerprint = None,
    again: Annotated[
        bool, typer.Option("--again", help="Certify this key for a name that was revoked or has another key.")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """On the machine with the authority's key: certify a client's key for secure aggregation."""
    from feddat.deploy.certify import Issued
    from feddat.deploy.enrolment import read_client_request
    from feddat.deploy.errors import DeployError
    from feddat.deploy.pki import read_certificate, write_certificate

    asked = read_client_request(request, read_certificate(authority / "ca.crt"))
    # An old key's signature is enough for `admit`, but not here: only the server may know that the key was stolen.
    _compare(f"client {asked.name}", asked.fingerprint, fingerprint, "the client's administrator")
    if not to.parent.is_dir():  # before earlier certificates are revoked
        raise DeployError(f"--out {to}: no such folder")
    issued = Issued(authority, read_signer(authority, passphrase_file))
    certificate, replaced = issued.certify(asked, again)
    write_certificate(to, certificate)
    print_paths(certificate=to)
    tell_fingerprint(f"client {asked.name} has the fingerprint", asked.fingerprint)
    if replaced:
        say_note(
            f"the certificates of {asked.name}'s earlier keys are revoked: once it uses the new key, send "
            f"{issued.list} to all clients that do not have it yet"
        )


def _compare_privacy(invited: tuple[Level, float], required: tuple[Level, float]) -> None:
    """Say what privacy the client requires, and warn if it is less than the invitation's, or of another unit."""
    from feddat.config.privacy import AT_LEAST

    (theirs, most), (own, epsilon) = invited, required
    if own != "none":
        say_note(f"client.yaml requires privacy {own} with epsilon at most {epsilon:g} of every run")
    if own not in AT_LEAST[theirs]:
        less = theirs in AT_LEAST[own]
        effect = "it also takes part in runs that promise less" if less else "it refuses the consortium's runs"
        say_warning(f"this client requires privacy {own}, but the invitation names {theirs}: {effect}")
    elif theirs != "none" and own != theirs:
        say_note(f"that is more than the invitation's {theirs}: the client refuses runs that promise less than {own}")
    if "none" not in (own, theirs) and epsilon > most:
        effect = "it also takes part in runs that promise less"
        say_warning(f"this client allows epsilon {epsilon:g}, but the invitation names {most:g}: {effect}")


def _renew_client(folder: Path) -> None:
    from feddat.deploy.client_folder import renew_key
    from feddat.privacy.secure_sum.identity import CERTIFICATE_FILE
    from feddat.site import read_site

    request, own = renew_key(folder, read_site(folder / "client.yaml").client)
    print_paths(request=request)
    tell_fingerprint("the new key's fingerprint", own)
    say_note(
        f"send {request.name} to the server's administrator, who admits it; until then this client keeps using its old "
        "key, and then it changes by itself"
    )
    if (folder / CERTIFICATE_FILE).exists():
        say_note(
            f"{CERTIFICATE_FILE} is for the old key: secure sums refuse the new one until you replace it; send "
            f"{request.name} also to whoever has the authority's key (feddat deploy certify)"
        )


def privacy_level(text: str) -> Level:
    """Return the level of privacy with this name."""
    from feddat.config.privacy import LEVELS

    if text not in LEVELS:
        raise typer.BadParameter(f"expected one of {', '.join(LEVELS)}, got {text!r}", param_hint="--privacy")
    return LEVELS[LEVELS.index(text)]


def new_passphrase(file: Path | None) -> str | None:
    """Return the passphrase for a new key; ``None`` if there is no terminal, or the user wants none."""
    if file is not None:
        return _checked(_read_passphrase(file))
    if not sys.stdin.isatty():
        return None
    text = typer.prompt(
        "Passphrase for the authority's key (empty: none)",
        default="",
        show_default=False,
        hide_input=True,
        confirmation_prompt=True,
    )
    return _checked(text) if text else None


def _checked(passphrase: str) -> str:
    if len(passphrase) < _SHORTEST:
        raise typer.Exit(fail(f"passphrase: expected at least {_SHORTEST} characters, got {len(passphrase)}", 2))
    return passphrase


def _read_passphrase(file: Path) -> str:
    if file.stat().st_mode & 0o077:
        raise typer.Exit(fail(f"passphrase file {file}: other users can read it; run chmod 600", 2))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except ValueError:
        lines = []
    if not lines or not lines[0]:
        raise typer.Exit(fail(f"passphrase file {file}: expected the passphrase on its first line", 2))
    return lines[0]


def read_signer(folder: Path, file: Path | None) -> Authority:
    """Read an authority; if its key has a passphrase and no file gives it, ask on the terminal."""
    from feddat.deploy.pki import PassphraseNeeded, read_authority

    passphrase = None if file is None else _read_passphrase(file)
    try:
        return read_authority(folder, passphrase)
    except PassphraseNeeded:
        if not sys.stdin.isatty():
            raise
    return read_authority(folder, typer.prompt("Passphrase of the authority's key", hide_input=True))


def fingerprint_of(certificate: Path) -> str:
    """Return the fingerprint of a certificate file."""
    from feddat.deploy.pki import certificate_fingerprint, read_certificate

    return certificate_fingerprint(read_certificate(certificate))


def say_note(text: str) -> None:
    """Print a note for the user to standard error."""
    err.print(Text.assemble(("note: ", "bold"), text), soft_wrap=True)


def tell_fingerprint(what: str, fingerprint: str) -> None:
    """Print a fingerprint on one line, for copying."""
    out.print(f"{what}: {fingerprint}", markup=False, highlight=False, soft_wrap=True)


def _compare(whose: str, found: str, told: str | None, source: str) -> None:
    """Check a fingerprint against the one that the user received another way.

    Raises:
        Exit: the fingerprints differ, or the user does not confirm.
    """
    if told is not None:
        if not _same(found, told):
            raise typer.Exit(
                fail(f"{whose}: the fingerprint is {found}, but --fingerprint says {told}; do not trust this file", 2)
            )
        return
    if not sys.stdin.isatty():
        raise typer.Exit(fail(f"{whose}: fingerprint {found}: compare it with {source}, and give --fingerprint", 2))
    tell_fingerprint(f"{whose} has the fingerprint", found)
    if not typer.confirm(f"Has {source} told you the same fingerprint?"):
        raise typer.Exit(fail(f"{whose}: not accepted", 1))


def _same(found: str, told: str) -> bool:
    """Return whether two fingerprints of a key or certificate are equal, whichever tool wrote them."""
    if found.startswith("SHA256:"):
        return told.strip().rstrip("=").removeprefix("SHA256:") == found.removeprefix("SHA256:")
    return told.rpartition("=")[2].strip().replace(":", "").upper() == found


def _tell_link(known: Members, otherwise: str) -> None:
    """Tell a running SuperLink about a change that the server's folder already holds.

    Raises:
        Exit: the SuperLink could not be told.
    """
    from feddat.deploy.errors import DeployError

    try:
        runs = known.tell()
    except DeployError as error:
        lasts = "the server's folder is updated, but the running SuperLink could not be told"
        raise typer.Exit(fail(f"{lasts}: {error}; restart it to apply the change", 1)) from None
    if not runs:
        say_note(f"the SuperLink is not running; {otherwise}")
