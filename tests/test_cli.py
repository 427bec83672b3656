"""The command line: a quick start, one line per error, and the whole way from own data to an answer."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from feddat.cli import main
from feddat.cli.common import split_seeds
from feddat.config import ConfigError, RunConfig, load_config, presets
from feddat.experiment.single.portable import portable
from helpers import call, make_tiny_vilt

EXAMPLE = Path(__file__).parent.parent / "examples" / "own-data"
FEDDAT = [sys.executable, "-c", "from feddat.cli import main; main()"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return standard error, which must be one line that starts with ``error: ``."""
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the worked example's files, reduced to few questions."""
    folder = tmp_path_factory.mktemp("own") / "data"
    command = [sys.executable, str(EXAMPLE / "prepare.py"), str(folder), "--train", "24", "--test", "8"]
    subprocess.run(command, check=True, capture_output=True)
    (folder.parent / "clients.yaml").write_text((EXAMPLE / "clients.yaml").read_text())
    return folder.parent


# Quick to start, and clear about mistakes


def test_help_needs_no_heavy_library() -> None:
    code = (
        "import sys; from feddat.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'flwr', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("run", "compare", "study", "demo", "report", "predict", "list", "settings", "data", "models"):
        assert f" {command} " in done.stdout


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out.startswith("feddat 0.")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "roundz=3"], "unknown key 'roundz'; did you mean 'rounds'?"),
        (["run", "rounds=0"], "rounds: Input should be greater than or equal to 1"),
        (["run", "rounds"], "override 'rounds': expected key=value"),
        (["compare", "mine.yaml"], "; --config mine.yaml reads settings from it"),
        (["run", "published"], "; --config published reads settings from it"),
        (["run", "--config", "/nowhere.yaml"], "config file /nowhere.yaml: No such file or directory"),
        (["run", "--resume", "x", "rounds=3"], "--resume uses the settings of the run's folder"),
        (["run", "--bogus"], "--bogus"),
        (["run", "--method", "fedavg"], "No such option '--method'. Settings have no dashes: method=VALUE"),
        (["compare", "--method", "fedavg"], "Did you mean one of: '--methods'"),
        (["compare", "--batch-size", "8"], "Settings have no dashes: train.batch_size=VALUE"),
        (["comparee"], "comparee"),
        (["compare", "--seeds", "0"], "Invalid value for '--seeds': '0': expected a number of seeds from 1, or seeds"),
        (["study", "examples", "--seeds", "12-10"], "Invalid value for '--seeds': '12-10'"),
        (["newcomers", "--seeds", "1,,2"], "Invalid value for '--seeds': '1,,2'"),
        (["report", "/nowhere"], "/nowhere: no such run folder"),
        (["compare", "--suite", "papr"], "suite 'papr': unknown; suites are paper, mini, deciding"),
        (["compare", "--suite", "mini", "-b", "mini/task"], "give either --suite or --benchmark, not both"),
        (["compare", "--suite", "mini", "-m", "fedavgg"], "method: 'fedavgg' is unknown"),
        (["compare", "--tune-on", "mini/task"], "--tune-on names a federation of a suite"),
        (["compare", "method=fedavg,local"], "method=fedavg,local: set methods with --methods NAME,NAME"),
        (["study", "examples", "method=local"], "method=local: set methods with --methods"),
        (["tune", "chosen.json"], "tune chosen.json: expected settings to search"),
        (["report", "/nowhere", "--markdown"], "/nowhere: no such run folder"),
        (["study", "exampels"], "study 'exampels': expected one of examples, steps"),
        (["study", "examples", "--split", "dev"], "--split: expected validation or test, got 'dev'"),
        (["study", "train.speed=1,2"], "unknown key 'train.speed'"),
        (["predict", "--run", "x"], "give one question with --image and --question"),
        (["data", "show"], "give one of --benchmark"),
        (
            ["data", "show", "-b", "mini/domain", "--out", "sheet.xyz"],
            "--out: sheet.xyz: expected the name of a picture",
        ),
        (["data", "show", "-b", "mini/domain", "--split", "dev"], "--split: expected train, validation or test"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 2
    assert said in error_line(capsys)


def test_a_missing_image_is_named_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run", "x", "--client", "c", "--image", "/nowhere.png", "--question", "what?"]
    assert call("predict", *arguments) == 2
    assert error_line(capsys) == "error: /nowhere.png: no such image file"


def raising(error: BaseException) -> Any:
    def function(*arguments: Any, **more: Any) -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "a/x.json"),
            2,
            "a/x.json: No space left on device",
        ),
        (OSError("broken\npipe"), 2, "broken pipe"),
        (KeyError("x"), 1, "unexpected KeyError: 'x' (--debug shows the traceback)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_inside_is_one_line_too(
    error: BaseException,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("feddat.report.page.write_report", raising(error))
    (tmp_path / "summary.json").touch()
    assert call("report", str(tmp_path)) == code
    assert error_line(capsys) == f"error: {said}"


def test_an_interrupted_run_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("feddat.experiment.Experiment.run", raising(KeyboardInterrupt()))
    assert call("run", f"runs_dir={tmp_path}", "name=x") == 130
    said = f"interrupted; finished work is kept; continue with: feddat run --resume {tmp_path / 'x'}"
    assert error_line(capsys) == f"error: {said}"


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("3", [0, 1, 2]),
        ("1", [0]),
        ("10-12", [10, 11, 12]),
        ("4-4", [4]),
        ("10, 7,10", [10, 7]),
        ("0-2,9", [0, 1, 2, 9]),
    ],
)
def test_seeds_are_a_number_or_named(text: str, seeds: list[int]) -> None:
    assert split_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "3-", ",", "1,", "2-1", "1-2-3", "x", "1.5", "1 2", "٣", "9" * 5000])
def test_what_names_no_seeds_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="expected a number of seeds from 1, or seeds such as 10-12"):
        split_seeds(text)


@pytest.mark.parametrize(
    "arguments", [["compare"], ["compare", "--suite", "mini"], ["study", "rounds=1,2"], ["newcomers"]]
)
def test_every_grid_has_the_seeds_that_are_named(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned: list[RunConfig] = []

    def stop(runs: dict[str, RunConfig], *_: object) -> None:
        planned.extend(runs.values())
        raise KeyboardInterrupt

    monkeypatch.setattr("feddat.cli.many.display", stop)
    assert call(*arguments, "-m", "fedavg", "--seeds", "11,14-15", f"runs_dir={tmp_path}", "benchmark=mini/task") == 130
    assert sorted({run.seed for run in planned}) == [11, 14, 15]


@pytest.mark.parametrize(
    ("where", "arguments"),
    [
        ("feddat.experiment.compare", ["compare", "-m", "head", "--seeds", "1"]),
        ("feddat.experiment.compare", ["demo", "-m", "head", "--seeds", "1"]),
        ("feddat.experiment.run_study", ["study", "rounds=1,2", "-m", "head", "--seeds", "1"]),
        ("feddat.experiment.run_suite", ["compare", "--suite", "mini", "-m", "head", "--seeds", "1"]),
        ("feddat.pretrain.train.pretrain", ["pretrain", "a folder"]),
        ("feddat.experiment.prepare.prepare", ["data", "prepare", "-b", "paper/domain", "--root", "x", "-o", "y"]),
    ],
)
def test_what_can_be_taken_up_again_says_by_which_command(
    where: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(where, raising(KeyboardInterrupt()))
    again = arguments if arguments[0] == "pretrain" else [*arguments, "--overwrite"]
    assert call(*again) == 130
    said = error_line(capsys)
    assert said == f"error: interrupted; finished work is kept; continue with: {shlex.join(['feddat', *arguments])}"


def test_debug_lets_an_error_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feddat.report.page.write_report", raising(KeyError("x")))
    (tmp_path / "summary.json").touch()
    with pytest.raises(KeyError):
        main(["report", str(tmp_path), "--debug"])


def test_debug_shows_the_traceback_of_a_client(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feddat.algorithms.base.task_step", raising(KeyError("missing")))
    settings = [f"model={make_tiny_vilt(tmp_path / 'tiny')}", f"runs_dir={tmp_path}", "rounds=1", "method=local"]
    run = ["run", *settings, "--config", str(data / "clients.yaml")]
    assert call(*run, "name=a") != 0
    said = capsys.readouterr()
    assert "KeyError: 'missing'" in said.out + said.err and "Traceback" not in said.err
    with pytest.raises(RuntimeError):
        main([*run, "name=b", "--debug"])
    assert "in function\n" in capsys.readouterr().err, "the place where the method failed"


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    captured = capsys.readouterr()
    assert "Usage: feddat" in captured.out + captured.err


@pytest.mark.parametrize("name", ["demo", "mini", "published"])
def test_the_presets_are_valid_configurations(name: str) -> None:
    preset = load_config(Path(__file__).parent.parent / "src" / "feddat" / "presets" / f"{name}.yaml")
    assert preset.benchmark == ("mini-v1/domain" if name == "demo" else "mini/domain")
    assert preset.head.init == "words"


@pytest.mark.parametrize("device", ["nope", "cuda:77"])
@pytest.mark.parametrize(
    "command",
    [
        ("run",),
        ("run", "--profile"),
        ("compare", "-b", "medical/small", "model=dandelin/vilt-b32-mlm"),
        ("bench", "step", "--models", "vilt-mini", "--quick", "--device"),
    ],
)
def test_a_device_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], device: str
) -> None:
    last = [device] if command[-1] == "--device" else [f"device={device}", f"runs_dir={tmp_path}"]
    assert call(*command, *last) == 2
    assert error_line(capsys).startswith(f"error: device: '{device}' cannot be used here: ")


def test_clients_on_the_command_line_have_their_paths_like_those_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text("")
    (tmp_path / "c.yaml").write_text("clients: {a: {train: ~/train.jsonl, test: test.jsonl}}\n")
    monkeypatch.chdir(tmp_path)
    given = load_config(None, ["benchmark=null", "clients={a: {train: ~/train.jsonl, test: test.jsonl}}"])
    expected = {"train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    for config in (given, load_config("c.yaml")):
        assert portable(config).clients == {"a": expected}


def test_a_preset_is_found_by_its_name_unless_a_file_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini").mkdir()  # a folder is no file of settings
    assert load_config("mini") == load_config(presets()["mini"])
    assert load_config("published", ["rounds=3"]).rounds == 3
    (tmp_path / "real").write_text("benchmark: mini/task\n")
    assert load_config("real").benchmark == "mini/task"
    with pytest.raises(ConfigError, match=r"config file none: No such file .*; bundled settings are demo, mini, publ"):
        load_config("none")
    with pytest.raises(ConfigError, match=r"config file sub/mini: No such file or directory"):
        load_config("sub/mini")


# Without training


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    from feddat.experiment import STUDIES, SUITES, known_methods
    from feddat.kinds import KINDS
    from feddat.report.methods import METHODS

    assert call("list") == 0
    shown = capsys.readouterr().out
    assert re.search(
        r"mini/task +four clients.*\n +shared: a visual domain: x-ray images\n +differs: the task: VQA", shown
    )
    words = shown.split()
    for name in ("vilt-mini", "mini/domain", "vqav2", *known_methods(), *STUDIES, *SUITES, *KINDS):
        assert name in words
    assert METHODS.keys() == known_methods().keys(), "every method needs a name and a note in print"


def test_settings_are_listed_with_default_values_and_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("settings", "train.lr") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert any(
        re.match(r"train\.lr 0\.0001; vilt-mini: 0\.004; .* \(number, > 0\) AdamW: peak", line) for line in lines
    )
    assert call("settings", "regulariser", "FEDDYN", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "algorithm.feddyn_alpha": {
            "default": "0.01",
            "values": "number, > 0",
            "meaning": "feddyn: weight of the dynamic regulariser",
        }
    }
    assert call("settings", "--json") == 0
    assert json.loads(capsys.readouterr().out).keys() >= {"rounds", "server.rule", "privacy.epsilon", "wire.format"}
    assert call("settings", "nothing such") == 2
    assert error_line(capsys).endswith("no setting has nothing such in its key or meaning")


def test_a_contact_sheet_of_own_data(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "show", "--config", str(data / "clients.yaml"), "--out", str(tmp_path / "sheet.png")]
    assert call(*arguments, "--client", "shapes") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("shapes: vqa, 22 train, 2 validation, 8 test, ")
    assert said[1] == str(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    assert call(*arguments, "--client", "nobody") == 2
    assert error_line(capsys) == "error: --client: 'nobody' is unknown; clients are colours, shapes"


# The whole way


def test_from_own_data_to_an_answer(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the worked example with a tiny random model in a real terminal, then ``report`` and ``predict``."""
    model = make_tiny_vilt(tmp_path / "tiny")
    runs = tmp_path / "runs"
    arguments = [f"model={model}", f"runs_dir={runs}", "rounds=2", "train.batch_size=8", "threads=1"]
    leader, follower = pty.openpty()
    command = [*FEDDAT, "run", "--config", str(data / "clients.yaml"), *arguments]
    process = subprocess.Popen(command, stdout=follower, stderr=subprocess.PIPE, env=ENVIRONMENT)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end was closed
            break
        if not part:
            break
        shown += part
    assert process.stderr is not None
    complaints = process.stderr.read().decode()
    assert process.wait() == 0, complaints
    assert complaints == ""
    screen = shown.decode()
    assert "round 2/2" in screen
    assert "mean test score" in screen
    assert "Dual teacher (DAT)" in screen

    folder = runs / "own-data"
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["clients"]) == {"colours", "shapes"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"{summary['mean']:.1f} %" in page
    assert page.count('<img src="data:image/png;base64,') == 8
    (folder / "report.html").unlink()
    assert call("report", str(folder)) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert (folder / "report.html").is_file()

    image = next((data / "data" / "colours" / "images").glob("test-*.png"))
    asked = ["predict", "--run", str(folder), "--image", str(image), "--question", "what color is the shape?"]
    assert call(*asked, "--client", "colours", "--top", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    percents = [float(line.split()[1]) for line in lines]
    assert percents == sorted(percents, reverse=True)
    assert call(*asked, "--client", "nobody") == 2
    assert "clients are colours, shapes" in error_line(capsys)

    # The folder of the run exists now, so the command asks for --overwrite.
    assert call("run", "--config", str(data / "clients.yaml"), *arguments) == 2
    assert "--overwrite" in error_line(capsys)


@pytest.mark.usefixtures("no_workers")
def test_a_study_and_its_table(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = make_tiny_vilt(tmp_path / "tiny")
    options = ["-m", "local", "--seeds", "1", "--jobs", "1", "--split", "validation", "--name", "s"]
    settings = [f"model={model}", f"runs_dir={tmp_path}", "rounds=1", "train.batch_size=8"]
    assert call("study", "examples=8,16,900", *settings, "--config", str(data / "clients.yaml"), *options) == 0
    shown, warned = capsys.readouterr()
    assert "warning: Left out: 900 (no client has so many training examples;" in warned
    assert "2 runs on own data: number of training examples per client" in shown
    assert f"plot    {tmp_path / 's' / 'study.png'}" in shown
    assert call("report", str(tmp_path / "s"), "--markdown") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| training examples per client | Local only |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| 8", "| 16"]
    assert lines[5].startswith("Left out: 900 ")
    assert call("report", str(tmp_path / "s")) == 0
    assert capsys.readouterr().out.split()[-1] == str(tmp_path / "s" / "study.svg")


def test_a_suite_and_its_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from feddat.experiment.grids.suites import SUITES, Suite

    monkeypatch.setitem(SUITES, "tiny", Suite("tiny", "one federation", ("mini/domain",), ("head",)))
    settings = [f"model={make_tiny_vilt(tmp_path / 'tiny')}", f"runs_dir={tmp_path}", "rounds=1", "train_examples=8"]
    options = ["--suite", "tiny", "--seeds", "1", "--jobs", "1"]
    assert call("compare", *settings, "test_examples=4", *options) == 0
    shown = capsys.readouterr().out
    assert "1 runs: one federation" in shown
    assert f"report  {tmp_path / 'suite-tiny' / 'report.html'}" in shown
    assert call("report", str(tmp_path / "suite-tiny"), "--markdown") == 0
    assert capsys.readouterr().out == (tmp_path / "suite-tiny" / "results.md").read_text()


@pytest.mark.usefixtures("no_workers")
def test_what_a_search_chose_is_written_for_other_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from feddat.experiment import read_tuning

    settings = [f"model={make_tiny_vilt(tmp_path / 'tiny')}", f"runs_dir={tmp_path}", "rounds=1", "train_examples=8"]
    settings += ["test_examples=4", "--benchmark", "mini/domain", "--jobs", "1"]
    file = tmp_path / "docs" / "chosen.json"
    assert call("tune", "train.lr=1e-3,1e-2", *settings, "-m", "local", "--to", str(file)) == 0
    assert f"chosen  {file}" in capsys.readouterr().out
    chosen = json.loads(file.read_text())
    rate = chosen["best"]["local"]["train.lr"]
    assert chosen["scores"]["local"].keys() == {"train.lr=0.001", "train.lr=0.01"}
    assert read_tuning(file, ["local"])["best"]["local"] == {"train.lr": rate}


def test_the_demonstration_says_what_it_will_do_and_what_was_seen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_tiny_vilt(tmp_path / "tiny")
    settings = [f"model={model}", f"runs_dir={tmp_path}", "rounds=1", "train_examples=8", "test_examples=4"]
    assert call("demo", "-m", "feddat-mild,local", "--seeds", "1", "--jobs", "1", "threads=1", *settings) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert words.startswith("Five clients with drawn pictures fine-tune one frozen model together: 2 methods")
    assert "Every client kept its pictures, questions, answers and task head." in words
    assert "FedDAT, mild distillation" in words and "One seed is a first look" in words
    assert "to see curves and answers to single questions" in words
    assert "Data issues" not in words


@pytest.mark.parametrize("wrong", ["comare", "deploy renw", "bench stp", "data descibe", "model chek"])
def test_a_mistyped_command_gets_one_suggestion(wrong, capsys):
    with pytest.raises(SystemExit):
        main(wrong.split())
    assert capsys.readouterr().err.count("Did you mean") == 1
