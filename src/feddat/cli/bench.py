"""Commands that measure speed and memory: ``feddat bench``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from feddat.cli.common import Config, Overrides, out, say_loading, split_names

if TYPE_CHECKING:
    from feddat.bench.step import Say

app = typer.Typer(
    no_args_is_help=True, suggest_commands=False, help="Measure steps, epochs, many clients, and the size of updates."
)

Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for JSON, tables and the plot.")]
Work = Annotated[Path, typer.Option(metavar="DIR", help="Folder for the models, pictures and runs to measure.")]
Quick = Annotated[bool, typer.Option("--quick", help="Take minutes instead of an hour: smaller, fewer repeats.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.", show_default="PyTorch's choice")]
Device = Annotated[str, typer.Option(help="Device: cpu or cuda.")]
Cycles = Annotated[int | None, typer.Option(min=1, help="Number of times to measure each alternative.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Examples per step.", show_default="the model's")]
_MODELS = "Models, comma-separated: vilt-mini, vilt-b32, albef-base."
_OUT, _WORK = Path("runs/bench"), Path("runs/bench/work")


@app.command()
def step(
    models: Annotated[str | None, typer.Option(help=_MODELS, show_default="all; quick: vilt-mini")] = None,
    device: Device = "cpu",
    batch: Batch = None,
    cycles: Cycles = None,
    threads: Threads = None,
    precision: Annotated[str, typer.Option(help="Precision of our schedules: auto, fp32, bf16, int8.")] = "auto",
    schedules: Annotated[
        str | None,
        typer.Option(
            help="Schedules to time, comma-separated: published, alternating, joint, int8, plain.",
            show_default="those that can be fastest on the device",
        ),
    ] = None,
    graphs: Annotated[bool, typer.Option(help="On a GPU: record our passes as CUDA graphs, as runs do.")] = True,
    quick: Quick = False,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Time one step of local training: published schedule, our schedules and a plain adapter."""
    names = split_names(models or ("vilt-mini" if quick else "vilt-mini,vilt-b32,albef-base"))
    with _measuring(threads) as say:
        from feddat.bench.step import bench_step

        result = bench_step(
            work, names, split_names(schedules) if schedules else None, device=device,
            cycles=cycles or (3 if quick else 11), batch=batch, precision=precision,
            memory=not quick, graphs=graphs, say=say,
        )  # fmt: skip
    _show(result, to)


@app.command()
def epoch(
    model: Annotated[
        str | None,
        typer.Option(help="Model: vilt-mini, vilt-b32 or albef-base.", show_default="vilt-b32; quick: vilt-mini"),
    ] = None,
    device: Device = "cpu",
    batch: Batch = None,
    cycles: Cycles = None,
    threads: Threads = None,
    examples: Annotated[int, typer.Option(min=1, help="Examples of the client.")] = 64,
    quick: Quick = False,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Time a local epoch from JPEG files with cold and warm caches, and with the published schedule."""
    with _measuring(threads) as say:
        from feddat.bench.epoch import bench_epoch

        name = model or ("vilt-mini" if quick else "vilt-b32")
        result = bench_epoch(work, name, device, cycles or (2 if quick else 5), examples, batch, say=say)
    _show(result, to)


@app.command()
def clients(
    counts: Annotated[
        str | None,
        typer.Option(
            metavar="N1,N2,...",
            help="Numbers of clients to measure.",
            show_default="1,10,100,1000; quick: 1,10; simulation: 10,50,200",
        ),
    ] = None,
    runtime: Annotated[
        str, typer.Option(help="in-process, or simulation to measure the memory of Ray actors.")
    ] = "in-process",
    cycles: Cycles = None,
    threads: Threads = 1,
    quick: Quick = False,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Measure memory and time of federations with a growing number of clients in one process."""
    if runtime not in ("in-process", "simulation"):
        raise typer.BadParameter(f"expected in-process or simulation, got {runtime!r}", param_hint="--runtime")
    defaults = {"in-process": "1,10" if quick else "1,10,100,1000", "simulation": "10,50,200"}
    sizes = _numbers(counts or defaults[runtime], "clients")
    with _measuring(threads) as say:
        if runtime == "simulation":
            from feddat.bench.simulation import bench_simulation

            result = bench_simulation(work, sizes, say=say)
        else:
            from feddat.bench.clients import bench_clients

            result = bench_clients(work, sizes, cycles or 1, say=say)
    _show(result, to)


@app.command()
def jobs(
    overrides: Overrides = None,
    config: Config = None,
    counts: Annotated[str, typer.Option("--jobs", metavar="N1,N2,...", help="Numbers of workers to measure.")] = "2",
    cycles: Cycles = None,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Time a round of training with clients one after another, and in parallel worker processes."""
    from feddat.config import load_config

    numbers = _numbers(counts, "workers", least=2)
    settings = load_config(config, overrides)
    with _measuring(None) as say:
        from feddat.bench.jobs import bench_jobs

        result = bench_jobs(work / "jobs", settings, numbers, cycles or 5, say)
    _show(result, to)


@app.command()
def wire(cycles: Cycles = None, quick: Quick = False, to: Out = _OUT, work: Work = _WORK) -> None:
    """Measure the size of an update, and the time to encode and decode it."""
    with _measuring(None) as say:
        from feddat.bench.wire import bench_wire

        models = ("vilt-mini",) if quick else ("vilt-mini", "vilt-b32")
        result = bench_wire(work, models, cycles or (5 if quick else 20), say)
    _show(result, to)


@app.command()
def privacy(
    models: Annotated[str, typer.Option(help="Models, comma-separated: vilt-mini, vilt-b32.")] = "vilt-mini",
    device: Device = "cpu",
    batch: Batch = None,
    cycles: Cycles = None,
    threads: Threads = None,
    precision: Annotated[str, typer.Option(help="Precision: auto, fp32, bf16.")] = "auto",
    quick: Quick = False,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Time steps with and without differential privacy, alternately."""
    names = tuple(split_names(models))
    with _measuring(threads) as say:
        from feddat.bench.privacy import bench_privacy

        result = bench_privacy(work, names, device, cycles or (3 if quick else 9), batch, precision, say)
    _show(result, to)


@app.command()
def sums(
    counts: Annotated[str, typer.Option(metavar="N1,N2,...", help="Numbers of clients to measure.")] = "5,20,100",
    models: Annotated[str, typer.Option(help=_MODELS)] = "vilt-mini",
    cycles: Cycles = None,
    quick: Quick = False,
    to: Out = _OUT,
    work: Work = _WORK,
) -> None:
    """Measure a round with secure aggregation while 0, 20 and 40 % of the clients drop out."""
    sizes = _numbers("5" if quick else counts, "clients", least=3)
    with _measuring(1) as say:
        from feddat.bench.sums import bench_sums

        result = bench_sums(work, sizes, models=split_names(models), cycles=cycles or (1 if quick else 3), say=say)
    _show(result, to)


@app.command()
def fill(
    page: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown with marks like <!-- bench step -->.")],
    results: Annotated[
        Path, typer.Option("--from", metavar="DIR", help="Folder with the results of the other commands.")
    ] = _OUT,
) -> None:
    """Insert measured tables between their marks in a documentation page."""
    from feddat.bench.tables import fill_page

    out.print(f"{page}: {', '.join(fill_page(page, results))}", soft_wrap=True)


def _numbers(counts: str, of: str, least: int = 1) -> list[int]:
    """Return numbers that are separated by commas.

    Raises:
        BadParameter: one is no number, or below ``least``.
    """
    names = split_names(counts)
    if not all(name.isdecimal() and int(name) >= least for name in names):
        what = f"{of} of at least {least}" if least > 1 else of
        raise typer.BadParameter(f"expected numbers of {what}, separated by commas, got {counts!r}")
    return [int(name) for name in names]


@contextmanager
def _measuring(threads: int | None) -> Iterator[Say]:
    """Load the libraries, set the number of threads, and show what is being measured."""
    say_loading()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    if not out.is_terminal:
        yield lambda text: None
        return
    with out.status("measuring") as status:
        yield lambda text: status.update(text)


def _show(result: dict[str, Any], to: Path) -> None:
    from feddat.bench.tables import machine, table, write_result

    for shown in _tables(table(result)):
        out.print(shown)
    out.print(f"[dim]{machine(result)}[/]", soft_wrap=True)
    for path in write_result(to, result):
        out.print(str(path), soft_wrap=True)


def _tables(rows: Sequence[dict[str, str]]) -> list[Table]:
    """Return rows as a table; if it is too wide for the terminal, return one transposed table per first cell."""
    whole = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        whole.add_row(*row.values())
    if out.measure(whole, options=out.options.update(max_width=10_000)).maximum <= out.width:
        return [whole]
    first = next(iter(rows[0]))
    tables = []
    for name in dict.fromkeys(row[first] for row in rows):
        group = [row for row in rows if row[first] == name]
        title, *headings = rows[0]
        turned = Table(title=f"{title}: {name}", title_justify="left", box=None, show_header=False)
        for heading in headings:
            turned.add_row(heading, *(row[heading] for row in group))
        tables.append(turned)
    return tables
