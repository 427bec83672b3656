"""Tables and forest plot of a record of runs."""

import json

import pytest
from made_up import summary

from feddat.cli import main
from feddat.example import DataError
from feddat.report import forest, record
from feddat.report.method_table import federation_tables


def write(path, summaries):
    lines = [{"run": str(n), "settings": {}, "summary": s, "curve": []} for n, s in enumerate(summaries)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def file(tmp_path):
    found = []
    for benchmark, shift in (("mini/domain", 0.0), ("mini/scene", 10.0)):
        for method in ("fedavg", "feddat", "local"):
            found += [summary(method, seed, shift) | {"benchmark": benchmark} for seed in (1, 0)]
    found.append(summary("local", 10_000) | {"split": "validation"})  # from a search for settings
    return write(tmp_path / "record.jsonl", found)


def test_a_record_becomes_a_table_per_federation_and_one_over_all(file):
    tables = federation_tables(record.federations(record.read_record(file)))
    assert list(tables) == ["All federations", "mini/domain", "mini/scene"]
    assert [row.name for row in tables["mini/scene"].rows] == ["FedAvg", "FedDAT", "Local only"]
    first, ours = tables["All federations"].rows[:2]
    # Levels of 58 and 66, clients 0 … 4, seeds 0 and 1, and 10 more on the second federation.
    assert [round(cell.mean, 1) for cell in first.cells] == [60.5, 70.5, 65.5]
    assert [round(cell.mean, 1) for cell in ours.cells] == [68.5, 78.5, 73.5]
    assert first.difference is not None and first.difference.mean == pytest.approx(-8.0)


def test_rows_and_reference_can_be_chosen(file):
    tables = federation_tables(record.federations(record.read_record(file), ["local", "feddat"]), "local")
    rows = tables["mini/domain"].rows
    assert [row.name for row in rows] == ["Local only", "FedDAT"]
    assert rows[0].difference is None and rows[1].difference.mean == pytest.approx(11.0)
    with pytest.raises(DataError, match=r"record\.jsonl: no runs of moon; the runs are of fedavg, feddat, local"):
        record.federations(record.read_record(file), ["moon"])


def test_seeds_can_be_chosen(file, capsys):
    runs = record.read_record(file)
    tables = federation_tables(record.federations(runs.of_seeds([1])))
    assert tables["mini/domain"].rows[1].cells[0].values == (67.0,), "FedDAT's level is 66, plus the seed"
    assert len(runs.of_seeds([1]).lines) == 7, "half of the runs, and the search"
    with pytest.raises(SystemExit) as end:
        main(["report", str(file), "--seeds", "1,5", "--markdown"])
    assert end.value.code == 2
    assert "no run with seed 5; it has 0, 1" in " ".join(capsys.readouterr().err.split())


def test_two_settings_of_one_run_are_refused(tmp_path):
    file = write(tmp_path / "r.jsonl", [summary("local"), summary("local", shift=1.0)])
    with pytest.raises(DataError, match=r"r\.jsonl: local on mini/domain, seed 0, occurs with several settings"):
        record.federations(record.read_record(file))
    with pytest.raises(DataError, match=r"empty\.jsonl: contains no runs to compare$"):
        record.federations(record.read_record(write(tmp_path / "empty.jsonl", [])))
    searched = write(tmp_path / "s.jsonl", [summary("local", 10_000) | {"split": "validation"}])
    with pytest.raises(
        DataError, match=r"contains no runs to compare; runs on validation data \(1\) only choose settings"
    ):
        record.federations(record.read_record(searched))


def test_the_forest_plot_shows_the_reference_minus_each_rival(file):
    called, panels = forest.differences(record.federations(record.read_record(file)))
    assert called == "FedDAT"
    assert list(panels) == ["mini/domain", "mini/scene", "all"]
    assert panels["all"].keys() == {"FedAvg", "Local only"}
    assert panels["mini/scene"]["Local only"].mean == pytest.approx(11.0)
    with pytest.raises(DataError, match="no runs of moon"):
        forest.differences(record.federations(record.read_record(file)), "moon")
    with pytest.raises(DataError, match="no runs of moon, the method to compare with; the runs are of fedavg, feddat"):
        record.record_markdown(record.read_record(file), reference="moon")


def test_written_files_are_the_same_every_time(file):
    runs, stem = record.read_record(file), file.with_suffix("")
    first = {path: path.read_bytes() for path in record.write_record(runs, stem)}
    assert [path.name for path in first] == ["record.md", "record.png"]
    assert first == {path: path.read_bytes() for path in record.write_record(runs, stem)}
    assert b"### All federations" in first[file.with_suffix(".md")]


def test_a_record_in_markdown_begins_with_its_conclusion_and_ends_with_its_searches(tmp_path):
    lines = [
        {"run": str(n), "settings": {}, "summary": s, "curve": []}
        for n, s in enumerate(summary(method, seed) for method in ("feddat", "fedavg") for seed in (0, 1, 2))
    ]
    for rate, mean in ((2e-3, 40.0), (4e-3, 50.0)):
        searched = summary("fedavg", 10_000) | {"split": "validation", "mean": mean}
        settings = {"method": "fedavg", "train": {"lr": rate}, "rounds": 5}
        lines.append({"run": str(rate), "settings": settings, "summary": searched, "curve": []})
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    text = record.record_markdown(record.read_record(file))
    assert text.startswith("FedDAT is ahead of FedAvg by 8.0 points [+8.0, +8.0].")
    assert text.endswith(
        "### Searched on mini/domain, validation data\n\n"
        "| method | train.lr=0.002 | train.lr=0.004 |\n| --- | ---: | ---: |\n| FedAvg | 40.0 | **50.0** |\n"
    )


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["report", *map(str, arguments)])
    return end.value.code


def test_several_files_make_one_table_and_a_run_in_both_counts_once(file, tmp_path, capsys):
    lines = file.read_text().splitlines(keepends=True)
    other = tmp_path / "more.jsonl"
    new = [
        {
            "run": f"new {n}",
            "settings": {},
            "summary": summary("fedavg", 0) | {"method": "ditto", "benchmark": name},
            "curve": [],
        }
        for n, name in enumerate(("mini/domain", "mini/scene"))
    ]
    other.write_text(lines[0] + "".join(json.dumps(line) + "\n" for line in new))
    assert command(file, other, "--to", tmp_path / "new" / "both", "--reference", "ditto") == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "new" / name) for name in ("both.md", "both.png")]
    text = (tmp_path / "new" / "both.md").read_text()
    assert "| Ditto |" in text and "| FedAvg |" in text and "Δ to Ditto" in text
    assert not file.with_suffix(".md").exists()
    assert command(file, other, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)) == len(lines) + len(new)


@pytest.mark.parametrize(
    ("more", "option"),
    [(["x.jsonl"], "RUN"), (["--by", "rounds"], "--by"), (["--to", "x"], "--to"), (["-m", "local"], "--methods"),
     (["--reference", "local"], "--reference")],
)  # fmt: skip
def test_a_folder_is_not_part_of_a_record(file, tmp_path, capsys, more, option):
    assert command(tmp_path, *more) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"{option}: {tmp_path} is not a record of runs" in said


def test_nothing_is_written_that_has_a_name(file, tmp_path, capsys):
    assert command(file, "--markdown", "--to", tmp_path / "x") == 2
    assert "nothing is written with --markdown or --json" in " ".join(capsys.readouterr().err.split())
