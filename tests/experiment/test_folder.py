"""Run folders: when a run may write to one, which settings must match, and what happens on a full disk."""

import errno
import os

import pytest

from feddat.config import RunConfig, load_config
from feddat.experiment.single.folder import ExperimentError, RunFolder, config_hash, differing_keys


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    (tmp_path / "run").mkdir()
    return RunFolder(tmp_path / "run")


def test_a_new_or_empty_folder_is_free(folder):
    folder.check(load_config(), resume=False, overwrite=False)
    (folder.path / ".lock").touch()
    folder.check(load_config(), resume=True, overwrite=False)


def test_a_run_is_not_touched_without_being_told(folder):
    config = load_config()
    folder.begin(config, overwrite=False)
    with pytest.raises(ExperimentError, match="contains an unfinished run; resume it"):
        folder.check(config, resume=False, overwrite=False)
    folder.write_json(folder.summary_file, {})
    with pytest.raises(ExperimentError, match="contains a finished run"):
        folder.check(config, resume=False, overwrite=False)
    folder.check(config, resume=True, overwrite=False)
    folder.check(load_config(rounds=3), resume=False, overwrite=True)


def test_overwriting_removes_the_run_and_nothing_else(folder, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").touch()
    folder.begin(load_config(rounds=3), overwrite=False)
    folder.checkpoints.mkdir()
    (folder.checkpoints / "x").touch()
    (folder.path / "link").symlink_to(outside)
    folder.begin(load_config(rounds=4), overwrite=True)
    assert sorted(entry.name for entry in folder.path.iterdir()) == ["config.yaml", "run-id"]
    assert folder.read_config().rounds == 4
    assert (outside / "precious").exists()


def test_a_folder_that_is_no_run_is_never_overwritten(folder):
    (folder.path / "thesis.tex").touch()
    with pytest.raises(ExperimentError, match="not a run folder"):
        folder.check(load_config(), resume=True, overwrite=True)


def test_differing_keys_are_those_that_change_numbers():
    one = load_config()
    assert differing_keys(one, load_config(name="x", threads=3, device="meta", runs_dir="elsewhere")) == []
    other = load_config(None, ["train.lr=1e-3", "seed=4", "adapter.peft=lora"])
    assert differing_keys(one, other) == ["adapter.peft", "seed", "train.lr"]
    assert config_hash(one) == config_hash(load_config(name="x"))
    assert config_hash(one) != config_hash(other)


def test_a_key_that_an_earlier_version_did_not_have_leaves_its_hash(monkeypatch):
    config = load_config(**{"train.lr": 0.5})
    before = config_hash(config)
    dump = RunConfig.model_dump
    monkeypatch.setattr(RunConfig, "model_dump", lambda self, **options: dump(self, **options) | (
        {} if options.get("exclude_defaults") else {"newer": None}))  # fmt: skip
    assert config_hash(config) == before


def test_metrics_are_cut_back_to_a_round(folder):
    folder.append_metrics([{"round": r, "client": "é"} for r in (1, 2, 2, 3)])
    with folder.metrics_file.open("a") as file:
        file.write('{"round": 1, "torn')
    folder.cut_metrics(2)
    assert folder.metrics_file.read_text() == '{"round": 1, "client": "é"}\n' + '{"round": 2, "client": "é"}\n' * 2
    folder.append_metrics([{"round": 3}], sync=True)
    assert [line["round"] for line in folder.read_metrics()] == [1, 2, 2, 3]


def test_a_whole_line_that_is_not_json_is_an_error(folder):
    folder.metrics_file.write_text('{"round": 1}\nnonsense\n{"round": 2}\n')
    with pytest.raises(ExperimentError, match=r"metrics.jsonl, line 2: not JSON"):
        folder.read_metrics()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")  # noqa: PTH110
def test_a_full_disk_is_one_line_that_names_the_file(folder):
    folder.metrics_file.symlink_to("/dev/full")
    with pytest.raises(ExperimentError, match=rf"{os.strerror(errno.ENOSPC)}; the files written so far are kept"):
        folder.append_metrics([{"round": 1}], sync=True)
