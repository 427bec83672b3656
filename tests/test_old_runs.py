"""Run folders of earlier versions can still be read (CONTRIBUTING.md says how much of them stays readable).

Each folder in ``old_runs`` was written by the version in its name and never changes. ``make.py`` there adds a folder
before each release. If a test fails here, a change breaks the runs that users have on disk.
"""

import json
import shutil
from pathlib import Path

import pytest

from feddat.cli import main
from feddat.experiment import Experiment

OLD_RUNS = Path(__file__).parent / "old_runs"
VERSIONS = sorted(path.parent.name for path in OLD_RUNS.glob("*/config.yaml"))


@pytest.fixture(scope="module", params=VERSIONS)
def old(request, tmp_path_factory):
    """Return a copy of one version's run."""
    return shutil.copytree(OLD_RUNS / request.param, tmp_path_factory.mktemp("old") / request.param)


def feddat(capsys, *arguments):
    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    captured = capsys.readouterr()
    assert stopped.value.code in (0, None), captured.err
    return captured.out


def test_there_is_at_least_one():
    assert "0.1.0" in VERSIONS


def test_its_page_and_tables_are_made_anew(old, capsys):
    feddat(capsys, "report", str(old))
    assert "silhouette" in (old / "report.html").read_text()
    assert "20.0" in feddat(capsys, "report", str(old), "--markdown")


def test_its_state_is_told(old, capsys):
    told = feddat(capsys, "status", str(old))
    assert "finished" in told
    assert "2/2" in told


def test_it_is_opened_with_the_settings_that_it_had(old):
    experiment = Experiment.open(old)
    config = experiment.config
    assert (config.method, config.model, config.rounds, config.adapter.reduction) == ("feddat", "vilt-mini", 2, 32)
    assert (config.train.lr, config.train.batch_size, config.train.betas) == (2e-3, 8, (0.9, 0.98))
    assert experiment.folder.summary()["mean"] == 20.0


def test_a_client_answers_as_it_did(old, capsys):
    """This version accepts the checkpoint's hashes of settings and model, and its predictions match the recorded ones.

    Probabilities may differ by one percentage point.
    """
    noted = json.loads((old / "predictions.json").read_text())
    records = [record for record in noted if record["client"] == "sketch"]
    assert records
    for record in records:
        asked = ["--image", str(old / record["images"][0]), "--question", record["question"], "--client", "sketch"]
        told = [line.split() for line in feddat(capsys, "predict", "--run", str(old), *asked).splitlines() if line]
        assert len(told) >= len(record["top"]) > 0
        for line, (answer, probability) in zip(told, record["top"], strict=False):
            assert line[0] == answer
            assert float(line[1]) == pytest.approx(100 * probability, abs=1)


def test_it_is_exported(old, capsys, tmp_path):
    feddat(capsys, "export", str(old), "--client", "sketch", "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "adapter_config.json").is_file()
