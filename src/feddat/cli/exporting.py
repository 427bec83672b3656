"""``feddat export``: take a trained model out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from feddat.cli.common import out, print_paths, say_loading
from feddat.cli.runs import AcceptChanges


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")],
    client: Annotated[
        str | None, typer.Option(metavar="NAME", help="Export this client's model; default: the shared adapter.")
    ] = None,
    route: Annotated[
        str | None, typer.Option(help="Route on which it answers: dat, global, local, ...; default: the method's.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into the weights of a complete model folder.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="With --merge: fp32, bf16 or fp16.")] = "fp32",
    base: Annotated[
        str | None,
        typer.Option("--base-model", metavar="NAME", help="Name of the foundation model in the exported folder."),
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="On a client's machine: its client.yaml; RUN is then a copy of the server's run."
        ),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Also upload it to a private repository on the Hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: make a new repository public.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export in DIR.")] = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Export a trained model from a run, as a PEFT folder or a model folder of transformers.

    With --client, the export includes the client's head and answers. See docs/export.md.
    """
    from feddat.config import ConfigError

    if dtype not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"--dtype: expected fp32, bf16 or fp16, got {dtype!r}")
    if dtype != "fp32" and not merge:
        raise ConfigError("--dtype applies only to a merged model; give --merge too")
    if public and push is None:
        raise ConfigError("--public applies only to an upload; give --push too")
    say_loading()
    from feddat.experiment import Experiment
    from feddat.experiment.exports.card import public_name
    from feddat.experiment.exports.write import Options
    from feddat.site import read_site

    if site is not None and client is None:
        client = read_site(site).client
    experiment = Experiment.open(run, site=site, device="cpu")
    if push is not None and base is None:
        base = public_name(experiment.settings.model)  # no path of this machine
    options = Options(merge=merge, dtype=dtype, base=base, overwrite=overwrite)  # type: ignore[arg-type]
    folder = experiment.export(to, client, route, options, accept_changes)
    print_paths(folder=folder)
    if push is not None:
        from feddat.experiment.exports.publish import push as upload

        out.print(upload(folder, push, private=not public), soft_wrap=True)
