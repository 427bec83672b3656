import json

import pytest

from feddat.bench import tables
from feddat.example import DataError

HARDWARE = {"cpu": "Abacus", "cores": 2, "threads": 1, "instructions": "beads", "torch": "2.0"}


def step_row(schedule, seconds, **changes):
    phases = {"inputs": 0.5, "forward": 1.0, "backward": 1.0, "update": 0.1}
    row = {"model": "m", "schedule": schedule, "precision": "fp32", "batch": 4, "seconds": seconds, "phases": phases}
    return row | {"flops": 30e9, "matmul_rate": 20e9, "memory": {"loaded": 1, "peak": 2_000_000}} | changes


WAYS = {"here": [2.0, 6.0, 8.0], "there": [1.0, 3.0, 8.0]}
STEP = {
    "kind": "step",
    "hardware": HARDWARE,
    "rows": [
        step_row("published", [6.0, 8.0, 10.0]),
        step_row("joint", [3.0, 2.0, 5.0]),
        step_row("plain", [2.0, 1.0, 2.0]),
    ],
}


def test_a_ratio_is_the_median_of_the_turns_own_ratios():
    assert tables.ratio([3.0, 2.0, 5.0], [6.0, 8.0, 10.0]) == 2.0  # the median of 2, 4 and 2
    assert tables.ratio([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_seconds_are_a_median_and_half_the_distance_between_the_quartiles():
    assert tables.seconds([1.0, 2.0, 3.0, 4.0, 9.0]) == "3 ± 1"
    assert tables.seconds([2.5]) == "2.5"


def test_a_step_is_compared_with_the_published_and_the_plain_one():
    published, joint, plain = tables.table(STEP)
    assert (published["times published"], joint["times published"], plain["times published"]) == (
        "1.00",
        "2.00",
        "5.00",
    )
    assert (published["plain steps"], joint["plain steps"], plain["plain steps"]) == ("5.00", "2.00", "1.00")
    assert joint["samples/s"] == "1.33"  # 4 samples in 3 s
    assert joint["of matmul rate"] == "50 %"  # 30 GFLOP in 3 s, where 20 GFLOP/s are possible
    assert joint["peak memory"] == "2.0 MB"


def test_a_step_without_others_is_compared_with_nothing():
    (row,) = tables.table({**STEP, "rows": [step_row("joint", [3.0], memory=None)]})
    assert row["times published"] == row["plain steps"] == row["peak memory"] == ""


def test_the_other_measurements_have_tables():
    epoch = {"schedule": "published", "cache": "none", "examples": 8, "seconds": [4.0], "reading": [1.0]}
    ours = epoch | {"schedule": "joint", "cache": "warm", "seconds": [1.0]}
    assert [row["times published"] for row in tables.table({"kind": "epoch", "rows": [epoch, ours]})] == [
        "1.00",
        "4.00",
    ]
    sizes = [{"clients": n, "seconds": [1.0], "memory": {"loaded": 10, "peak": p}} for n, p in ((1, 100), (10, 105))]
    assert [row["times that of 1"] for row in tables.table({"kind": "clients", "rows": sizes})] == ["1.00", "1.05"]
    simulated = [{"clients": 10, "seconds": [1.0], "training": [0.5], "memory": {"peak": 100}}]
    (row,) = tables.table({"kind": "simulation", "rows": simulated})
    assert (row["of that training"], "memory loaded" in row) == ("0.5", False)
    ways = [{"way": way, "clients": 5, "seconds": taken, "loading": 1.0} for way, taken in WAYS.items()]
    assert [row["times as fast"] for row in tables.table({"kind": "jobs", "rows": ways})] == ["1.00", "2.00"]
    wire = {"title": "m", "format": "f", "parameters": 2, "bytes": 8, "encode": [0.001], "decode": [0.002]}
    (row,) = tables.table({"kind": "wire", "rows": [wire]})
    assert (row["ms to encode"], row["ms to decode"]) == ("1", "2")


def test_results_are_written_and_put_between_their_marks(tmp_path):
    files = tables.write_result(tmp_path / "results", STEP)
    assert [path.name for path in files] == ["step.json", "step.md", "step.png"]
    assert json.loads(files[0].read_text()) == STEP
    assert files[2].read_bytes().startswith(b"\x89PNG")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench step -->\nold\n<!-- end -->\nafter\n<!-- bench wire -->\nkept\n<!-- end -->\n")
    for _ in range(2):  # the second time changes nothing
        assert tables.fill_page(page, tmp_path / "results") == ["step"]
    text = page.read_text()
    assert text.startswith("before\n<!-- bench step -->\n\n2 cores of Abacus (beads), 1 thread, torch 2.0.\n\n| model")
    assert text.count("| m, 4 | joint |") == 1
    assert "old" not in text
    assert text.endswith("<!-- end -->\nafter\n<!-- bench wire -->\nkept\n<!-- end -->\n")


def test_memory_and_time_of_ever_more_clients_are_drawn(tmp_path):
    rows = [{"clients": n, "seconds": [1.0], "memory": {"loaded": 10, "peak": 2e6 + n}} for n in (1, 10)]
    files = tables.write_result(tmp_path, {"kind": "clients", "hardware": HARDWARE, "rows": rows})
    assert files[2].read_bytes().startswith(b"\x89PNG")
    memory, time = tables.clients_figure({"rows": rows}).axes
    assert memory.lines[0].get_xydata().tolist() == [[1, 2.000001], [10, 2.00001]]
    assert time.lines[0].get_xydata().tolist() == [[1, 1], [10, 1]]


def test_a_page_without_marks_is_an_error(tmp_path):
    tables.write_result(tmp_path, STEP)
    page = tmp_path / "page.md"
    page.write_text("nothing\n")
    with pytest.raises(DataError, match="has no mark like <!-- bench step -->"):
        tables.fill_page(page, tmp_path)
    with pytest.raises(DataError, match="no\\.md: No such file"):
        tables.fill_page(tmp_path / "no.md", tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"kind": "kettle"}', '{"kind": ["step"]}'])
def test_other_files_beside_the_results_are_left_out(tmp_path, content):
    tables.write_result(tmp_path, STEP)
    (tmp_path / "a.json").write_text(content)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench step -->\n<!-- end -->\n")
    assert tables.fill_page(page, tmp_path) == ["step"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"kind": "st', r"a\.json: expected the JSON of a measurement: "),
        ('{"kind": "step"}', r"a\.json: not a result of feddat bench step \(KeyError"),
        ('{"kind": "step", "rows": [{}]}', r"a\.json: not a result of feddat bench step \(KeyError"),
        ('{"kind": "epoch", "rows": []}', r"a\.json: not a result of feddat bench epoch \(StopIteration"),
    ],
)
def test_a_damaged_result_is_named_and_the_page_stays(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench step -->\nold\n<!-- end -->\n")
    with pytest.raises(DataError, match=message):
        tables.fill_page(page, tmp_path)
    assert "old" in page.read_text()
