"""``feddat export``: what a run leaves, taken away."""

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
        str | None, typer.Option(metavar="NAME", help="Whose model; default: the adapter that all have in common.")
    ] = None,
    route: Annotated[
        str | None, typer.Option(help="dat, global, local, ...: how it answers; default: the method's own way.")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="A model folder of its own, with the adapter in its weights.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="With --merge: fp32, bf16 or fp16.")] = "fp32",
    base: Annotated[
        str | None, typer.Option("--base-model", metavar="NAME", help="What the folder calls the foundation model.")
    ] = None,
    site: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="On a client's own machine: its client.yaml; RUN is a copy of the server's."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload it to the Hub too, into a private repository.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: a new repository is public.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an exported model that is there.")] = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Take a trained model out of a run: as a PEFT folder, or a model folder of transformers.

    With --client the head and its answers lie beside it. See docs/export.md.
    """
    from feddat.config import ConfigError

    if dtype not in ("fp32", "bf16", "fp16"):
        raise ConfigError(f"--dtype: expected fp32, bf16 or fp16, got {dtype!r}")
    if dtype != "fp32" and not merge:
        raise ConfigError("--dtype: of a merged model; give --merge")
    if public and push is None:
        raise ConfigError("--public: of a repository; give --push")
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
