"""A study's table and plot, from made-up records to files, and the errors about files that are not a study."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from feddat.example import DataError
from feddat.report.study import study_figure, study_markdown, study_table, write_study


def record(method: str, point: str, x: float | None, seed: int, score: float, route: str = "score") -> dict[str, Any]:
    return {"method": method, "route": route, "seed": seed, "point": point, "x": x, "score": score}


def study(records: list[dict[str, Any]], **values: Any) -> dict[str, Any]:
    given = {"axis": "training examples per client", "rows": "training examples per client", "split": "test"}
    return given | {"curve": False, "by_route": False, "benchmark": "mini/domain", "records": records} | values


GROWING = [
    record(method, str(x), x, seed, base + place + seed * 2, "dat" if method == "feddat" else "score")
    for method, base in (("feddat", 50.0), ("fedavg", 48.0))
    for seed in (0, 1)
    for place, x in enumerate((50, 200, 1600))
]


def test_points_are_rows_and_methods_are_columns() -> None:
    table = study_table(study(GROWING))
    assert table.corner == "training examples per client"
    assert table.columns == ("FedDAT", "FedAvg")
    assert [name for name, _ in table.rows] == ["50", "200", "1600"]
    # Seeds 0 and 1 scored 51 and 53: mean 52, deviation 2 / sqrt 2.
    assert [str(cell) for cell in dict(table.rows)["200"]] == ["52.0 ± 1.4", "50.0 ± 1.4"]
    assert [cell.best for cell in dict(table.rows)["200"]] == [True, False]


def test_routes_are_series_where_the_study_asks_for_them() -> None:
    records = [
        record("feddat", "1", 1, 0, 50.0, "dat"),
        record("feddat", "1", 1, 0, 40.0, "local"),
        record("fedavg", "1", 1, 0, 45.0),
    ]
    columns = study_table(study(records, by_route=True)).columns
    assert columns == ("FedDAT: Dual teacher (DAT)", "FedDAT: Local adapter", "FedAvg")


def test_bytes_are_told_where_the_points_differ_in_them() -> None:
    def sent(point: str, seed: int, up: int) -> dict[str, Any]:
        return record("feddat", point, None, seed, 50.0) | {"bytes": {"up": up, "down": 2 * up}}

    same = study([sent("a", 0, 1000), sent("b", 0, 1000)])
    assert "bytes" not in study_markdown(same)
    assert "bytes" not in study_markdown(study(GROWING))
    text = study_markdown(study([sent("fp32", 0, 4000), sent("int8", 0, 1000), sent("int8", 1, 1200)]))
    assert text.split("\n\n")[1].splitlines() == [
        "| bytes per client and round | FedDAT, up | FedDAT, down |",
        "| --- | ---: | ---: |",
        "| fp32 | 4.0 kB | 8.0 kB |",
        "| int8 | 1.1 kB | 2.2 kB |",
    ]


def test_a_point_that_a_method_lacks_leaves_its_cells_empty() -> None:
    found = [
        record(method, point, None, 0, 50.0) | {"bytes": {"up": up, "down": up}}
        for method, point, up in (("feddat", "a", 1000), ("fedavg", "a", 2000), ("fedavg", "b", 500))
    ]
    assert study_markdown(study(found)).splitlines()[-2:] == [
        "| a | 1.0 kB | 1.0 kB | 2.0 kB | 2.0 kB |",
        "| b | – | – | 500 B | 500 B |",
    ]


def lines(figure: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[0].lines}


def test_wide_values_are_drawn_on_a_logarithmic_axis_with_a_band() -> None:
    figure = study_figure(study(GROWING))
    axes = figure.axes[0]
    assert lines(figure) == {
        "FedDAT": ([50.0, 200.0, 1600.0], [51.0, 52.0, 53.0]),
        "FedAvg": ([50.0, 200.0, 1600.0], [49.0, 50.0, 51.0]),
    }
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["50", "200", "1600"]
    low, high = (edge(axes.collections[0].get_paths()[0].vertices[:, 1]) for edge in (min, max))
    assert low == pytest.approx(51 - 2**0.5)
    assert high == pytest.approx(53 + 2**0.5)


def test_rounds_are_drawn_evenly_and_names_side_by_side() -> None:
    curve = [record("feddat", str(n), n, 0, 40.0 + n) for n in range(1, 31)]
    axes = study_figure(study(curve, curve=True)).axes[0]
    assert axes.get_xscale() == "linear"
    assert not axes.collections, "one seed has no spread"
    named = [record("feddat", rule, None, 0, score) for rule, score in (("mean", 40.0), ("fedadam", 42.0))]
    figure = study_figure(study(named))
    assert lines(figure) == {"FedDAT": ([0.0, 1.0], [40.0, 42.0])}
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["mean", "fedadam"]


def test_a_long_title_stays_beside_the_legend_and_on_the_picture() -> None:
    told = study([record(name, "1", 1.0, 0, 40.0) for name in ("feddat-mild", "fedavg-lora")])
    told["description"] = "how long clients train with the same data and number of rounds: local epochs per round"
    figure = study_figure(told)
    figure.canvas.draw()
    title = figure.axes[0].title.get_window_extent()
    assert title.x1 <= figure.bbox.x1
    assert title.y1 <= figure.bbox.y1
    assert not title.overlaps(figure.legends[0].get_window_extent())


def test_everything_is_written_and_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(study(GROWING)))
    written = write_study(tmp_path)
    assert [path.name for path in written] == ["study.md", "study.csv", "study.png", "study.svg"]
    assert "| 50 | **51.0 ± 1.4** | 49.0 ± 1.4 |" in (tmp_path / "study.md").read_text()
    rows = list(csv.reader((tmp_path / "study.csv").read_text().splitlines()))
    assert rows[0] == ["training examples per client", "FedDAT mean", "FedDAT std", "FedAvg mean", "FedAvg std"]
    assert rows[3][:2] == ["1600", "53"]
    with Image.open(tmp_path / "study.png") as picture:
        assert picture.width > 800
    assert "FedDAT" in (tmp_path / "study.svg").read_text()
    before = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_study(tmp_path)] == before


def test_a_file_that_is_no_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"study\.json: No such file"):
        write_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(DataError, match=r"study\.json: not JSON"):
        write_study(tmp_path)
    (tmp_path / "study.json").write_text('{"axis": "x"}')
    with pytest.raises(DataError, match=r"study\.json: key 'rows' is missing"):
        write_study(tmp_path)
    good = record("feddat", "1", 1.0, 0, 50.0)
    for records, reason in (
        ([], "records: is empty; no run of the study has scores"),
        ({}, "records: expected a list"),
        ([{}], r"records\[0\]: key 'method' is missing"),
        ([good, good | {"score": None}], r"records\[1\]: score: expected a number"),
        ([good | {"x": "1"}], r"records\[0\]: x: expected a number"),
        ([good | {"method": ["feddat"]}], r"records\[0\]: method: expected text"),
    ):
        (tmp_path / "study.json").write_text(json.dumps(study(records)))
        with pytest.raises(DataError, match=rf"study\.json: {reason}"):
            write_study(tmp_path)
    for wrong, reason in (
        ({"notes": "a"}, "notes: expected a list of texts"),
        ({"notes": [1]}, "notes: expected a list of texts"),
        ({"short": ["1"]}, "short: expected an object"),
    ):
        (tmp_path / "study.json").write_text(json.dumps(study([good], **wrong)))
        with pytest.raises(DataError, match=rf"study\.json: {reason}"):
            write_study(tmp_path)
