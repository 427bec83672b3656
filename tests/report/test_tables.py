"""Tables in every format: means, deviations and the best of each row, with numbers that can be checked by hand."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from feddat.report import tables
from feddat.report.tables import Cell, route_table, score_table


def run(method: str, seed: int, **clients: Any) -> dict[str, Any]:
    scores = {c: s if isinstance(s, dict) else {"score": s} for c, s in clients.items()}
    return {"method": method, "seed": seed, "clients": scores}


RUNS = [
    run(
        "feddat", 0, art={"dat": 60.0, "local": 50.0, "global": 55.0}, photo={"dat": 70.0, "local": 71.0, "global": 1.0}
    ),
    run(
        "feddat", 1, art={"dat": 64.0, "local": 52.0, "global": 55.0}, photo={"dat": 70.0, "local": 73.0, "global": 1.0}
    ),
    run("head", 0, art=40.0, photo=80.0),
    run("head", 1, art=40.0, photo=84.0),
]


def texts(table: tables.Table) -> dict[str, list[str]]:
    return {name: [("*" if cell.best else "") + str(cell) for cell in cells] for name, cells in table.rows}


def test_cells_hold_mean_and_sample_deviation_over_seeds() -> None:
    table = score_table(RUNS)
    assert table.columns == ("FedDAT", "Head only")
    # std of (60, 64) and (80, 84) is 4 / sqrt 2 = 2.83; the mean row: (65, 67) and (60, 62), std sqrt 2 = 1.41
    assert texts(table) == {
        "art": ["*62.0 ± 2.8", "40.0 ± 0.0"],
        "photo": ["70.0 ± 0.0", "*82.0 ± 2.8"],
        "Mean": ["*66.0 ± 1.4", "61.0 ± 1.4"],
    }


def test_routes_of_one_method() -> None:
    table = route_table(RUNS[:2])
    assert table is not None
    assert table.columns == ("Dual teacher (DAT)", "Local adapter", "Global adapter")
    assert texts(table)["photo"] == ["70.0 ± 0.0", "*72.0 ± 1.4", "1.0 ± 0.0"]
    assert route_table(RUNS[2:]) is None


def test_a_client_that_keeps_its_scores_is_in_the_table_without_them() -> None:
    one = run("feddat", 0, art={"dat": 60.0, "local": 50.0}) | {"not_shared": ["photo"]}
    table = route_table([one])
    assert table is not None
    assert texts(table) == {
        "art": ["*60.0", "50.0"],
        "photo": ["not shared", "not shared"],
        "Mean": ["*60.0", "50.0"],
    }
    assert texts(score_table([run("feddat", 0) | {"not_shared": ["photo"]}])) == {
        "photo": ["not shared"],
        "Mean": ["not shared"],
    }


def test_one_seed_has_no_deviation_and_one_column_has_no_best() -> None:
    assert texts(score_table([run("local", 0, art=50.04)])) == {"art": ["50.0"], "Mean": ["50.0"]}


def test_cells_equal_in_the_shown_digit_are_both_best() -> None:
    table = score_table([run("feddat", 0, art=50.04), run("head", 0, art=49.96), run("local", 0, art=49.94)])
    assert texts(table)["art"] == ["*50.0", "*50.0", "49.9"]


def test_a_client_missing_from_one_method_leaves_an_empty_cell() -> None:
    table = score_table([run("feddat", 0, art=50.0, photo=60.0), run("head", 0, art=40.0)])
    assert texts(table)["photo"] == ["60.0", "–"]
    assert "photo,60,,," in tables.to_csv(table)


def test_markdown() -> None:
    assert tables.to_markdown(score_table(RUNS)) == (
        "| client | FedDAT | Head only |\n"
        "| --- | ---: | ---: |\n"
        "| art | **62.0 ± 2.8** | 40.0 ± 0.0 |\n"
        "| photo | 70.0 ± 0.0 | **82.0 ± 2.8** |\n"
        "| *Mean* | **66.0 ± 1.4** | 61.0 ± 1.4 |\n"
    )


def test_html_escapes_names_and_marks_the_best() -> None:
    html = tables.to_html(score_table([run("a&b", 0, **{"<art>": 50.0}), run("head", 0, **{"<art>": 40.0})]))
    assert "<th scope='row'>&lt;art&gt;</th><td class='best'>50.0</td><td>40.0</td>" in html
    assert "a&amp;b" in html
    assert html.count("<tr class='mean'>") == 1


def test_rich_shows_names_that_look_like_markup() -> None:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(tables.to_rich(score_table([run("head", 0, **{"[red]": 40.0})]), title="scores"))
    assert isinstance(console.file, io.StringIO)
    assert "[red]" in console.file.getvalue()
    assert "40.0" in console.file.getvalue()


@given(st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=4), min_size=2, max_size=4))
def test_csv_gives_the_numbers_back_and_the_best_is_the_largest(scores: list[list[float]]) -> None:
    runs = [run(f"m{i}", seed, art=value) for i, column in enumerate(scores) for seed, value in enumerate(column)]
    table = score_table(runs)
    row = next(csv.DictReader(io.StringIO(tables.to_csv(table))))
    cells = table.rows[0][1]
    for column, cell in zip(table.columns, cells, strict=True):
        assert abs(float(row[f"{column} mean"]) - cell.mean) <= 1e-3
    shown = [float(f"{cell.mean:.1f}") for cell in cells]
    best = {mean for mean, cell in zip(shown, cells, strict=True) if cell.best}
    assert best == ({max(shown)} if len(set(shown)) > 1 else set())


def test_an_empty_cell_is_a_dash() -> None:
    assert str(Cell(())) == "–"


def test_the_centralised_reference_is_never_the_best() -> None:
    rows = [run("fedavg", 0, art=50.0), run("local", 0, art=40.0), run("central", 0, art=90.0)]
    assert texts(score_table(rows))["art"] == ["*50.0", "40.0", "90.0"]


@pytest.mark.parametrize(
    ("routes", "own"),
    [
        (("mixed", "dat", "local", "global"), "mixed"),
        (("dat", "local", "global", "mixed"), "mixed"),
        (("global", "dat"), "dat"),
        (("score",), "score"),
    ],
)
def test_a_methods_own_answer_does_not_depend_on_the_order_of_routes(routes: tuple[str, ...], own: str) -> None:
    assert tables.own_route(dict.fromkeys(routes, 0.0)) == own
