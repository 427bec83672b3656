"""Make a run folder of this version for later versions to open: `python tests/old_runs/make.py` before each release.

It writes ``tests/old_runs/VERSION``: two rounds of FedDAT over ``vilt-mini`` on few questions of ``mini-v1/domain``. To
stay small it keeps the last checkpoint, and the personal state of one client. A folder that is committed is never made
again: what later versions have to open is what this version wrote.
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
    """Run, and drop what is not needed."""
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
