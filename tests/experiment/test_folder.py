"""Run folders: when a run may write to one, which settings must match, and what happens on a full disk."""

import errno
import os

import pytest

from feddat.cli.many import display
from feddat.config import RunConfig, load_config
from feddat.experiment.grids import comparison
from feddat.experiment.single.deciding import config_hash, differing_keys
from feddat.experiment.single.folder import ExperimentError, RunFolder
from feddat.experiment.single.world import finished_worlds
from feddat.watching.live import ComparisonDisplay


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
    with pytest.raises(ExperimentError, match=r"the files written so far are kept") as refused:
        folder.append_metrics([{"round": 1}], sync=True)
    assert str(refused.value).startswith(f"{folder.metrics_file}: {os.strerror(errno.ENOSPC)}; ")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"rounds: 3 # \xff", r"config\.yaml: not UTF-8 text"),
        (b"rounds: [", r"config\.yaml: not valid YAML"),
        (b"- rounds", r"config\.yaml: expected keys and values at the top level"),
        (b"rounds: 3\nround: 3", r"config\.yaml: unknown key 'round'; did you mean 'rounds'\?"),
        (b"rounds: many", r"config\.yaml: rounds: Input should be a valid integer"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line_that_names_the_file(folder, content, reason):
    folder.config_file.write_bytes(content)
    with pytest.raises(ExperimentError, match=reason) as refused:
        folder.read_config()
    assert "\n" not in str(refused.value) and "pydantic" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"method": "fed', "not JSON"),
        (b"\xff", "not UTF-8 text"),
        (b"[]", "expected a JSON object with the keys method"),
        (b"{}", "key 'method' is missing"),
    ],
)
def test_a_summary_that_is_not_whole_is_named(folder, content, reason):
    assert folder.summary() is None
    folder.summary_file.write_bytes(content)
    with pytest.raises(ExperimentError, match=rf"summary\.json: {reason}"):
        folder.summary()


def test_an_id_that_is_no_text_is_named(folder):
    folder.run_id_file.write_bytes(b"\xff")
    with pytest.raises(ExperimentError, match="run-id: not the id of a run"):
        folder.run_id()


def test_one_torn_summary_is_the_failure_of_its_run_alone(tmp_path, monkeypatch):
    runs = {f"s{seed}": load_config(runs_dir=tmp_path, seed=seed, name=f"s{seed}") for seed in (0, 1, 2)}
    folders = [RunFolder(config.run_dir) for config in runs.values()]
    for folder, config in zip(folders, runs.values(), strict=True):
        folder.path.mkdir()
        folder.begin(config, overwrite=False)
    folders[0].summary_file.write_text('{"method": "fed')
    done = {"method": "feddat", "seed": 1, "rounds": 10, "clients": {"art": {"dat": 1.0}}, "mean": 1.0}
    folders[1].write_json(folders[1].summary_file, done | {"world": {"data": "1"}})
    assert finished_worlds(runs) == {name: {"data": "1"} for name in runs}
    # Computing a run is left out: each task ends at once.
    monkeypatch.setattr(comparison, "run_parallel", lambda function, tasks, *others: (dict.fromkeys(tasks, done), {}))
    results, failures = comparison.run_all(runs)
    assert list(results) == ["s1", "s2"]
    assert list(failures) == ["s0"]
    assert failures["s0"].startswith(f"{folders[0].summary_file}: not JSON: ")
    assert list(comparison.run_all(runs, overwrite=True)[0]) == ["s0", "s1", "s2"]
    shown = []
    monkeypatch.setattr(ComparisonDisplay, "finish", lambda display, name, mean, before: shown.append((name, mean)))
    display(runs, "runs", overwrite=False)
    assert shown == [("s1", 1.0)]
