"""`feddat data prepare` from the command line: killed, continued, its folder used for runs, and bad input refused."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from experiment.published_tree import write_published
from helpers import call, make_tiny_vilt

#: The command line with shards of two images, written slowly enough to kill the process between two shards.
SLOW = """
import time
import feddat.data.cache, feddat.experiment.prepare as prepare
feddat.data.cache.SHARD_IMAGES = 2
write = prepare.write_shard
prepare.write_shard = lambda *a: (time.sleep(0.1), write(*a))
from feddat.cli import main
main()
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with files in the published layout and a model."""
    root = tmp_path_factory.mktemp("world")
    write_published(root / "published", "paper/domain")
    make_tiny_vilt(root / "model")
    return root


def arguments(world: Path, to: Path) -> list[str]:
    sizes = ["--train-examples", "12", "--test-examples", "6", "--jobs", "1"]
    where = ["--root", str(world / "published"), "--out", str(to), "--model", str(world / "model")]
    return ["data", "prepare", "--benchmark", "paper/domain", *where, *sizes]


def shards(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("option", ["--root", "--train-examples", "--test-examples"])
def test_options_that_a_medical_federation_does_not_have_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert call("data", "prepare", "-b", "medical/small", "--out", str(tmp_path / "to"), option, "7") == 2
    assert f"error: {option}: medical/small comes from the Hub with its published splits" in capsys.readouterr().err


def test_killed_gone_on_with_and_run(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = tmp_path / "domain"
    command = [sys.executable, "-c", SLOW, *arguments(world, to)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 120
    while len(shards(to)) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = shards(to)
    assert len(before) >= 3

    assert call("run", f"benchmark={to}", f"runs_dir={tmp_path / 'runs'}") == 2
    assert "`feddat data prepare` has not finished this folder" in capsys.readouterr().err
    assert call(*arguments(world, to)) == 0
    said = capsys.readouterr().out
    assert "aqua: reading questions" in said
    assert " kept " in said and str(to) in said
    assert shards(to).items() >= before.items()
    manifest = json.loads((to / "prepare.json").read_text())
    assert {name: about["counts"]["test"]["kept"] for name, about in manifest["clients"].items()} == dict.fromkeys(
        ("aqua", "cocoqa", "abstract", "vizwiz", "gqa"), 6
    )

    assert call("data", "show", "--benchmark", str(to), "--out", str(tmp_path / "sheet.png")) == 0
    assert capsys.readouterr().out.startswith("aqua: vqa, 12 train, 1 validation, 6 test, ")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    runs = [f"model={world / 'model'}", f"runs_dir={tmp_path / 'runs'}", "rounds=1", "threads=1"]
    assert call("run", f"benchmark={to}", *runs) == 0
    assert (tmp_path / "runs" / "feddat-domain-s0" / "summary.json").is_file()
    capsys.readouterr()
    more = ["train_examples=5", "test_examples=3", "name=direct", f"data_cache={tmp_path / 'cache'}"]
    assert call("run", "benchmark=paper/domain", f"root={world / 'published'}", *runs, *more) == 0
    assert (tmp_path / "cache" / "vizwiz").is_dir()

    # A second start has nothing left to do and imports no heavy library.
    code = (
        "import sys; from feddat.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'flwr', 'peft'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments(world, to)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kept" in done.stdout and "reading" not in done.stdout


def test_mistakes_are_one_line(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = arguments(world, tmp_path / "x")
    for change, said in (
        ({"paper/domain": "paper/domains"}, "error: benchmark 'paper/domains': expected one of paper/domain, "),
        (
            {str(world / "published"): "/nowhere"},
            "error: client aqua: /nowhere/aqua/train.json: no such file",
        ),
        ({str(world / "model"): "vilt-maxi"}, "error: model 'vilt-maxi': neither a bundled model"),
    ):
        assert call(*(change.get(word, word) for word in wanted)) == 2
        error = capsys.readouterr().err
        assert error.startswith(said) and error.count("\n") == 1
    assert not (tmp_path / "x").exists()
    assert call("run", "benchmark=paper/domain", f"runs_dir={tmp_path}") == 2
    assert "give root=DIR" in capsys.readouterr().err
