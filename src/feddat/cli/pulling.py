"""``feddat data pull``: fetch the published data of a federation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from feddat.cli.common import interruptible, out, print_paths


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
