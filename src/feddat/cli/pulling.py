"""``feddat data pull``, and the costs that commands announce before they download and compute for hours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from feddat.cli.common import interruptible, out, print_paths

if TYPE_CHECKING:
    import torch

    from feddat.config import RunConfig

#: (device, precision) -> share of the rate of matrix products that ViLT's steps reach (docs/benchmarks.md).
_SHARES = {("cpu", "fp32"): 0.85, ("cpu", "bf16"): 0.75, ("cpu", "int8"): 0.53, ("cuda", "bf16"): 0.37}
_OTHER_SHARE = 0.3


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A paper/* or medical/* name in `feddat list`.")],
    root: Annotated[
        Path | None, typer.Option(metavar="DIR", help="paper/*: folder of the published datasets to fill.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep archives after unpacking them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files to fetch, and fetch nothing.")] = False,
) -> None:
    """Fetch a federation's published data, after listing its sources, sizes and licences.

    After an interruption, the same command continues. It also names the data that you have to request yourself.
    """
    from feddat.benchmarks.medical import MEDICAL
    from feddat.benchmarks.paper import FEDERATIONS
    from feddat.config import ConfigError

    if name in MEDICAL:
        _pull_medical(name, dry_run)
    elif name in FEDERATIONS:
        if root is None:
            raise ConfigError(f"{name}: give --root, the folder for its datasets")
        _pull_paper(name, root, keep, dry_run)
    else:
        raise ConfigError(f"{name!r}: has no data to fetch; expected one of {', '.join([*FEDERATIONS, *MEDICAL])}")


def announce(configs: Sequence[RunConfig], methods: Sequence[str], seeds: int) -> None:
    """Print the downloads, licences and approximate duration of comparisons on data of the Hub."""
    from feddat.benchmarks.medical import MEDICAL
    from feddat.devices import device_of
    from feddat.hub.client import cache_folder
    from feddat.models.known import KNOWN

    medical = [config for config in configs if config.benchmark in MEDICAL]
    if not medical:
        return
    device = device_of(medical[0].device)
    datasets = {key: d for c in medical for key, d in MEDICAL[str(c.benchmark)].datasets().items()}
    lines = [f"  {d.repository}  about {d.megabytes} MB  {d.licence}" for d in datasets.values()]
    name = medical[0].model.partition("@")[0]
    if (known := KNOWN.get(name)) is not None:
        lines.insert(0, f"  {name}  about {1000 * known.file:.0f} MB  {known.licence}")
    out.print(Text("\n".join(["downloads, unless already in the cache:", *lines])), soft_wrap=True)
    out.print(Text.assemble((f"{'to':<8}", "dim"), str(cache_folder())), soft_wrap=True)
    if known is not None and known.gflop is not None and device.type in ("cpu", "cuda"):
        runs = [config.model_copy(update={"method": method}) for config in medical for method in methods]
        seconds = sum(gigaflops(run, known.gflop) for run in runs) * seeds * 1e9 / _rate(medical[0], device)
        said = f"about {seconds / 3600:.1f} h on this {medical[0].device}, estimated from its rate of matrix products"
        out.print(Text.assemble((f"{'time':<8}", "dim"), f"{said} and docs/benchmarks.md"), soft_wrap=True)


def gigaflops(config: RunConfig, step: float) -> float:
    """Estimate the billions of operations that the backbone takes in one run on a ``medical/*`` federation.

    Args:
        config: settings of the run; its method may be a variant.
        step: billions of operations per question of a pass forward and one backward. Each counts half of it: frozen
            weights need no gradients.
    """
    from feddat.algorithms import ALGORITHMS
    from feddat.benchmarks.medical import MEDICAL, questions
    from feddat.experiment.single.methods import resolve

    settings = resolve(config)
    algorithm = ALGORITHMS[settings.method]
    name, plan = str(settings.benchmark), settings.train
    clients = sum(part.sites for part in MEDICAL[name].parts)
    train, test = questions(name, settings.train_examples, settings.test_examples)
    held = test if settings.validation_examples is None else settings.validation_examples * clients
    forward, backward = algorithm.passes(settings.algorithm)
    if not backward:  # the cache keeps what the frozen model makes of a question
        return step / 2 * (train + held + test)
    per_round = plan.epochs * train if plan.steps is None else plan.steps * plan.batch_size * clients
    trained = (forward + backward) * settings.rounds * settings.server.fraction * per_round
    tuned = 2 * settings.algorithm.personal_epochs * train
    curves = settings.rounds // settings.eval.every
    evaluated = len(algorithm.routes) * (curves * held + test)
    return step / 2 * (trained + tuned + evaluated)


def _rate(config: RunConfig, device: torch.device) -> float:
    """Return the operations per second that steps on this machine should reach."""
    import torch

    from feddat.bench.clock import matmul_rates
    from feddat.precision import resolve_precision

    precision = resolve_precision(config.train.precision, config.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}[precision]
    return max(matmul_rates(device, dtype).values()) * _SHARES.get((device.type, precision), _OTHER_SHARE)


def _pull_medical(name: str, dry_run: bool) -> None:
    from feddat.benchmarks.medical import MEDICAL, fetch_dataset
    from feddat.hub import is_offline

    for dataset in MEDICAL[name].datasets().values():
        said = f"{dataset.title}: {dataset.repository}, about {dataset.megabytes} MB, licence {dataset.licence}"
        out.print(Text(said), soft_wrap=True)
        if dry_run:
            continue
        with interruptible():
            folder, address = fetch_dataset(dataset)
        out.print(Text.assemble((f"{'data':<8}", "dim"), str(address)), soft_wrap=True)
        print_paths(folder=folder)
    if dry_run and is_offline():
        out.print("[dim]HF_HUB_OFFLINE is set: nothing would be fetched[/]")


def _pull_paper(name: str, root: Path, keep: bool, dry_run: bool) -> None:
    from feddat.benchmarks.archives import PUBLISHED
    from feddat.benchmarks.paper import FEDERATIONS
    from feddat.hub import HubError
    from feddat.hub.download import download, unpack

    folders = list(dict.fromkeys(part.folder for part in FEDERATIONS[name].parts))
    for folder in folders:
        published = PUBLISHED[folder]
        out.print(Text.assemble((folder, "cyan"), f"  {published.terms}"), soft_wrap=True)
        for archive in published.archives:
            out.print(f"  {_amount(archive.megabytes):>8}  {archive.url}", soft_wrap=True, highlight=False)
        for what, where, below in published.asks:
            said = f"  request {what} at {where}; put it at {root / folder / below}"
            out.print(Text(said, "yellow"), soft_wrap=True)
    total = sum(archive.megabytes for folder in folders for archive in PUBLISHED[folder].archives)
    out.print(f"about {_amount(total)} in total, and twice as much while archives are unpacked", highlight=False)
    if dry_run:
        return
    failed = []
    with interruptible(), _progress() as shown:
        for folder in folders:
            for archive in PUBLISHED[folder].archives:
                done = root / folder / ".pulled" / f"{Path(archive.url).name}.done"
                if done.exists():
                    continue
                place = root / folder / (Path(archive.url).name if archive.packed else archive.into)
                try:
                    task = shown.add_task(place.name, total=None)
                    download(archive.url, place, _Shown(shown, task))
                    if archive.packed:
                        unpack(place, root / folder / archive.into)
                except HubError as error:
                    failed.append(str(error))
                    continue
                done.parent.mkdir(parents=True, exist_ok=True)
                done.touch()
                if archive.packed and not keep:
                    place.unlink()
    if failed:
        raise HubError("; ".join(failed))
    print_paths(folder=root)
    missing = [folder for folder in folders if PUBLISHED[folder].asks]
    if missing:
        out.print(
            Text(f"still missing: {', '.join(missing)}; request them as described above", "yellow"), soft_wrap=True
        )


def show_download(url: str, path: Path) -> Path:
    """Fetch a file with a progress bar, and return its path.

    Raises:
        HubError: the file is not available.
    """
    from feddat.hub.download import download

    with interruptible(), _progress() as shown:
        download(url, path, progress=_Shown(shown, shown.add_task(path.name, total=None)))
    return path


class _Shown:
    """Progress bar of a download."""

    def __init__(self, shown: Progress, task: TaskID) -> None:
        self._shown, self._task = shown, task

    def __call__(self, done: int, total: int | None) -> None:
        self._shown.update(self._task, completed=done, total=total)


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(), console=out)


def _amount(megabytes: float) -> str:
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.0f} MB"
