"""Studies over the number of examples, with clients that have fewer than a point asks for."""

import json

import pytest

from feddat.config import ConfigError
from feddat.experiment import STUDIES, Study, all_runs, run_study
from feddat.report.markdown import markdown
from feddat.report.study import study_figure, study_markdown
from two_clients import files


@pytest.fixture
def uneven(world, make_config, tmp_path):
    """Return a function that makes settings in which ``ann`` has 10 training examples, and ``bob`` 4."""
    few = tmp_path / "few.jsonl"
    few.write_text("".join((world / "bob" / "train.jsonl").read_text().splitlines(keepends=True)[:4]))
    own = files(world)
    own["bob"] |= {"train": str(few), "images": str(world / "bob")}
    return lambda **values: make_config(**{"clients": own, "name": "s", "rounds": 1} | values)


def test_points_beyond_the_largest_client_are_left_out(uneven):
    study = Study.parse("examples=2,4,8,10,11,50,null").fitted(uneven())
    assert list(study.points) == ["2", "4", "8", "10", "none"]
    assert study.reach.short == {8: {"bob": 4}, 10: {"bob": 4}}
    assert study.reach.notes == (
        "Left out: 11, 50 (no client has so many training examples; ann has the most, 10).",
        "*: some clients have fewer training examples and use all of them: bob has 4.",
    )
    assert study.fitted(uneven()) is study
    # Whoever does not ask for it gets the same runs.
    assert list(Study.parse("train_examples=2,50").plans(uneven(), ["local"], [0])) == ["2"]


def test_a_study_without_a_point_is_refused(uneven):
    with pytest.raises(
        ConfigError, match=r"study examples: 50, 100, .* 1600: no client has so many training examples; ann .* 10; give"
    ):
        STUDIES["examples"].plans(uneven(), ["local"], [0])


def test_other_splits_and_chosen_and_split_clients_count(uneven):
    assert Study.parse("test_examples=3,7").fitted(uneven()).values == (3,)
    assert Study.parse("validation_examples=3,7").fitted(uneven()).values == (3,)
    assert Study.parse("examples=4,5").fitted(uneven(only_clients=["bob"])).values == (4,)
    dealt = Study.parse("examples=2,4").fitted(uneven(split_clients=2))
    assert dealt.reach.notes == ("Each client's training examples are dealt out to 2 clients (split_clients).",)


def test_generated_clients_have_as_many_as_asked_and_are_not_read(make_config, monkeypatch):
    monkeypatch.setattr("feddat.experiment.single.client_data._load_benchmark", None)
    config = make_config(clients=None, benchmark="mini/domain")
    study = STUDIES["examples"].fitted(config)
    assert study.values == STUDIES["examples"].values and study.reach.notes == ()


def test_tables_and_plots_mark_points_that_some_clients_do_not_reach(uneven, no_workers):
    study = Study.parse("examples=2,8,16")
    config = uneven()
    result = run_study(study, study.plans(config, ["local"], [0]))
    assert [(r["point"], r["x"]) for r in result["records"]] == [("2", 2), ("8", 8)]
    assert result["short"] == {"8": {"bob": 4}} and len(result["notes"]) == 2
    lines = markdown(config.run_dir).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| 2", "| 8*"]
    assert lines[4:] == ["", " ".join(result["notes"])]
    # Programs read the points as they are.
    assert [line.split(",")[0] for line in (config.run_dir / "study.csv").read_text().splitlines()[1:]] == ["2", "8"]
    axes = study_figure(result).axes[0]
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[8]]
    assert axes.get_xlabel().endswith("(hollow: some clients have fewer)")
    plain = json.loads((config.run_dir / "study.json").read_text()) | {"short": {}, "notes": []}
    assert not any(line.get_markerfacecolor() == "white" for line in study_figure(plain).axes[0].lines)
    assert "*" not in study_markdown(plain)


def test_a_whole_epoch_is_as_long_as_the_clients_data(uneven, no_workers):
    """``train_examples`` may be more than any client has."""
    study = Study.parse("length=1,null")
    config = uneven(train_examples=100, train__batch_size=2, rounds=2)
    plans = study.plans(config, ["local"], [0])
    assert [run.train.steps for run in all_runs(plans).values()] == [1, None]
    result = run_study(study, plans)
    # 5 and 2 batches of each round are 3.5 on average.
    assert [(r["point"], r["x"], r["steps"]) for r in result["records"]] == [("2", 2, 2.0), ("7", 7.0, 7.0)]
