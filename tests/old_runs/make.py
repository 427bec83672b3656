"""Make a run folder that later versions must open. Before each release, run `python tests/old_runs/make.py`.

It writes ``tests/old_runs/VERSION``: two rounds of FedDAT with ``vilt-mini`` on a few questions of ``mini-v1/domain``.
To stay small, it keeps only the last checkpoint and one client's personal state. A committed folder is never made
again: later versions must open what this version wrote.
"""

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from feddat.config import load_config
from feddat.experiment import Experiment

HERE = Path(__file__).resolve().parent
KEPT = "sketch"


def main() -> None:
    """Run, and keep only what is needed."""
    target = HERE / version("feddat")
    if target.exists():
        sys.exit(f"{target} is there already: a folder of a version stays as that version made it")
    with tempfile.TemporaryDirectory() as place:
        settings = {
            "name": target.name,
            "runs_dir": place,
            "benchmark": "mini-v1/domain",
            "train_examples": 32,
            "validation_examples": 2,
            "test_examples": 2,
            "rounds": 2,
            "threads": 1,
            "adapter.reduction": 32,
            "train.lr": 2e-3,
            "train.batch_size": 8,
        }
        Experiment(load_config(None, None, **settings)).run()
        run = Path(place) / target.name
        (run / "report.html").unlink()
        shutil.rmtree(run / "checkpoints" / "round-00001")
        for client in (run / "clients").iterdir():
            if client.name != KEPT:
                shutil.rmtree(client)
        (run / "clients" / KEPT / "round-0001.safetensors").unlink()
        for lock in run.rglob(".lock"):
            lock.unlink()
        for file in (run / "config.yaml", run / "log.jsonl"):
            file.write_text(file.read_text().replace(place, "runs"))
        shutil.copytree(run, target)


if __name__ == "__main__":
    main()
