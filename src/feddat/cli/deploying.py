"""``feddat deploy``: a federation over several machines."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from feddat.cli import membership
from feddat.cli.common import fail, out, print_paths, say_loading, split_names
from feddat.cli.membership import (
    Epsilon,
    PassphraseFile,
    Privacy,
    fingerprint_of,
    new_passphrase,
    privacy_level,
    say_note,
    tell_fingerprint,
)

if TYPE_CHECKING:
    from feddat.client.approvals import Approvals
    from feddat.site import SiteConfig

app = typer.Typer(
    no_args_is_help=True, suggest_commands=False, help="Set up and run a federation over several machines."
)
_FLOWER = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command("init")
def init(
    host: Annotated[str, typer.Option(help="Names or addresses at which clients reach the server, comma-separated.")],
    clients: Annotated[
        str,
        typer.Option(
            help="For trials on one machine: names of clients, comma-separated, whose keys are made here.",
            show_default=False,
        ),
    ] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server.")] = 9092,
    model: Annotated[
        str, typer.Option(help="Bundled model, folder, or owner/name of the foundation model.")
    ] = "vilt-mini",
    privacy: Privacy = "none",
    epsilon: Epsilon = 8.0,
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="New folder to write.")] = Path("consortium"),
    authority: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="New folder for the authority's key, on a removable medium."),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Create a consortium: its authority, the server's folder, and the invitation for clients."""
    kept = (privacy_level(privacy), epsilon)
    passphrase = new_passphrase(passphrase_file)
    say_loading()
    from feddat.deploy.folder import write_consortium, write_server
    from feddat.experiment.single.foundation import model_hashes
    from feddat.models.named import pin_model

    pinned = pin_model(model)
    names, hosts, known = split_names(clients), split_names(host), (pinned, model_hashes(pinned))
    if names:
        write_consortium(to, names, hosts, port, known, passphrase=passphrase, authority=authority, privacy=kept)
        print_paths(server=to / "server", clients=to / "clients", readme=to / "README.md")
    else:
        write_server(to, hosts, port, known, passphrase=passphrase, authority=authority, privacy=kept)
        print_paths(server=to / "server", invites=to / "invitation.json", readme=to / "README.md")
    keeper = authority or to / "authority"
    tell_fingerprint("authority's fingerprint", fingerprint_of(keeper / "ca.crt"))
    note = "encrypted" if passphrase else "not encrypted (--ca-passphrase-file)"
    say_note(f"{keeper / 'ca.key'} is {note}; move {keeper} off this machine: the server runs without it")
    if names:
        say_note(
            "the clients' keys were made here, for trials; on their own machines, clients run `feddat deploy join`"
        )


for command in (
    *(membership.join, membership.admit, membership.revoke, membership.members),
    *(membership.renew, membership.sign, membership.certify),
):
    app.command()(command)


@app.command("check")
def check(
    folder: Annotated[Path, typer.Argument(metavar="CLIENT_DIR", help="This client's folder.")],
    quick: Annotated[bool, typer.Option("--quick", help="Read only the first picture of each split, not all.")] = False,
) -> None:
    """Check whether this machine can take part, and say what is missing."""
    say_loading()
    from feddat.deploy.check import check_client

    missing = 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task("reading pictures", total=None, visible=False)

        def read(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=done < total)

        for finding in check_client(folder, quick, read):
            sign = ("✓ ", "green") if finding.good else ("✗ ", "red")
            out.print(Text.assemble(sign, (f"{finding.what:<12}", "bold"), finding.found), soft_wrap=True)
            missing += not finding.good
    if missing:
        raise typer.Exit(fail(f"fix the {missing} problem{'s'[: missing > 1]} above first", 1))


@app.command("approve")
def approve(
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="Id of a run; default: list waiting runs.")] = None,
    folder: Annotated[
        Path, typer.Option("--folder", "-f", metavar="CLIENT_DIR", help="This client's folder.")
    ] = Path(),
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Approve without a question on the terminal.")] = False,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw the approval of RUN: it must be approved again.")
    ] = False,
) -> None:
    """Approve the settings that a run asks of this client; the run cannot change them afterwards."""
    from feddat.client.approvals import Approvals, changes
    from feddat.experiment.serving.app_config import asked_settings, asked_values
    from feddat.site import read_site

    site = read_site(folder / "client.yaml")
    approvals = Approvals(site.state, site.seals)
    if withdraw:
        if run is None:
            raise typer.Exit(fail("--withdraw: expected the RUN whose approval to withdraw", 2))
        approvals.withdraw(run)
        out.print(f"run {run} is no longer approved", markup=False)
        return
    waiting = approvals.waiting()
    usual = asked_values(asked_settings({}))
    for name in waiting if run is None else {run} & waiting.keys():
        before = _approved(approvals, name)
        title = "asks for" if before is None else "asks for settings that differ from the approved ones"
        out.print(Text.assemble("run ", (name, "bold"), f" {title}"), soft_wrap=True)
        for key in changes(usual if before is None else before, waiting[name]):
            out.print(Text(f"  {key}: {waiting[name].get(key)!r}"), soft_wrap=True)
        if waiting[name].get("secure_aggregation.enabled") and (alike := approvals.alike(name, waiting[name])):
            warning = f"  warning: the same settings as run {', '.join(alike)}; the server can compare the sums of both"
            out.print(Text(warning, "yellow"), soft_wrap=True)
    _tell_spent(site)
    if run is not None:
        if run in waiting and not yes and sys.stdin.isatty() and not typer.confirm(f"Approve run {run}?"):
            raise typer.Exit(fail(f"run {run}: not approved", 1))
        approvals.approve(run, waiting.get(run))
        out.print(f"run {run} is approved", markup=False)
    elif not waiting:
        out.print("no run is waiting for approval")


def _approved(approvals: Approvals, run: str) -> dict[str, Any] | None:
    """Return the settings that were approved for a run; ``None`` if it has no approval that counts."""
    from feddat.client.approvals import InvalidApprovalError

    try:
        return approvals.approved(run)
    except InvalidApprovalError:
        return None


def _tell_spent(site: SiteConfig) -> None:
    """Print what earlier runs have spent of the client's privacy, if any of them trained."""
    from feddat.client.totals import Totals

    known = Totals(site.client, site.state, site.seals)
    spent, plain = known.spent(), known.plain_runs()
    for unit, total in spent.items():
        whose = "" if unit == "record" else ", for this client as a whole"
        limits = {"ε": site.policy.total_epsilon, "δ": site.policy.total_delta}
        most = ", ".join(f"{name} {value:g}" for name, value in limits.items() if value is not None)
        out.print(f"spent so far: {total}{whose}" + (f"; at most {most}" if most else ""), highlight=False)
    if plain and (spent or site.policy.privacy != "none"):
        out.print(f"without privacy: {len(plain)} run{'s'[: len(plain) != 1]}", highlight=False)


@app.command("server")
def server(
    folder: Annotated[Path, typer.Argument(metavar="SERVER_DIR", help="The server's folder.")],
) -> None:
    """Run the server of a consortium until stopped; start federated runs with `feddat run`."""
    from feddat.deploy.folder import read_server
    from feddat.deploy.names import quiet_flower

    place = read_server(folder)
    quiet_flower()
    from feddat.deploy.link import run_link

    run_link(place.link_arguments(), place)


@app.command("client")
def client(
    folder: Annotated[Path, typer.Argument(metavar="CLIENT_DIR", help="This client's folder.")],
    refused: Annotated[bool, typer.Option("--refused", hidden=True)] = False,
    new_key: Annotated[bool, typer.Option("--new-key", hidden=True)] = False,
) -> None:
    """Run a client of a consortium until stopped."""
    from feddat.deploy.names import quiet_flower

    quiet_flower()
    _log()
    from feddat.deploy import client_folder
    from feddat.deploy.node import run_node
    from feddat.site import read_site

    site = read_site(folder / "client.yaml")
    if site.server is None:
        raise typer.Exit(fail(f"{folder / 'client.yaml'}: key 'server' is missing; expected server: HOST:PORT", 2))
    _close_client(folder, site.state)
    client_folder.mend_key_pair(folder)
    waits = client_folder.has_new_key(folder)
    new_key = new_key and waits
    keys = client_folder.NEW_KEYS if new_key else client_folder.KEYS
    arguments = client_folder.node_arguments(folder, site.server, site.client, folder / "client.yaml", keys=keys)
    if refused and not new_key:
        _say_why(folder, site.server)
    # Only the server knows which key it accepts, so the client tries each in turn.
    again = ["deploy", "client", str(folder), "--refused", *(["--new-key"] if waits and not new_key else [])]

    def take() -> None:
        client_folder.use_new_key(folder)
        logging.getLogger(__name__).info("the server accepts the new key; the old key is deleted")

    accepted = take if new_key else None
    run_node(arguments, site.node_port, again, site.heartbeat, site.log_file, accepted)


def _close_client(folder: Path, state: Path) -> None:
    """Make existing files of a client's folder inaccessible to other users."""
    from feddat.files import close_to_others

    try:
        close_to_others(folder, below=False)
        for path in (state, *folder.glob("*.key")):
            close_to_others(path)
    except OSError as error:
        note = f"{error.filename}: other users of this machine may be able to read it: {error.strerror}"
        logging.getLogger(__name__).warning("%s", note)


def _say_why(folder: Path, server: str) -> None:
    """Log why the server may have refused this node; Flower's server gives no reason."""
    from feddat.deploy.check import check_server

    found = [f"{finding.what}: {finding.found}" for finding in check_server(folder, server) if not finding.good]
    reason = "; ".join(found) or "it is reachable and this machine's clock is right; does it know this client's key?"
    logging.getLogger(__name__).warning("not let in by %s: %s", server, reason)


@app.command("link", hidden=True, context_settings=_FLOWER)
def link(context: typer.Context) -> None:
    """Run a SuperLink with Flower's own arguments."""
    from feddat.deploy.link import run_link

    run_link(context.args)


@app.command("node", hidden=True, context_settings=_FLOWER)
def node(
    port: int,
    context: typer.Context,
    log_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Log file in JSON Lines.")] = None,
    heartbeat: Annotated[float, typer.Option(metavar="SECONDS", help="Seconds between heartbeats.")] = 30.0,
) -> None:
    """Run a SuperNode with Flower's own arguments."""
    _log()
    from feddat.deploy.node import run_node

    run_node(context.args, port, heartbeat=heartbeat, log_file=log_file)


def _log() -> None:
    """Log the actions of a long-lived process, with timestamps."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logger = logging.getLogger("feddat")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)
