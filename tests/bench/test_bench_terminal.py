"""`feddat bench` prints every table cell in full, even on a narrow terminal."""

import pytest

from feddat.cli import bench

ROWS = [
    {"model": model, "schedule": schedule, **{f"measured {n}": f"{schedule}-{n}" for n in range(9)}}
    for model in ("small", "large")
    for schedule in ("published", "ours")
]


@pytest.mark.parametrize(("width", "tables"), [(60, 2), (300, 1)])
def test_no_cell_is_cut(monkeypatch, width, tables):
    monkeypatch.setattr(bench.out, "width", width)
    shown = bench._tables(ROWS)
    with bench.out.capture() as capture:
        for table in shown:
            bench.out.print(table)
    words = capture.get().split()
    assert len(shown) == tables
    assert "…" not in capture.get()
    for row in ROWS:
        assert all(words.count(cell) >= 1 for cell in row.values())
