"""The benchmark of private steps, in a quick run."""

from feddat.bench.privacy import MEASURED, bench_privacy
from feddat.bench.tables import markdown


def test_plain_and_private_steps_are_measured_in_turns(tmp_path):
    result = bench_privacy(tmp_path, cycles=2, batch=4, precision="fp32")
    rows = result["rows"]
    assert [(row["schedule"], row["scope"], row["releases"]) for row in rows] == [
        ("plain", "all", 1), ("joint", "all", 1), ("alternating", "all", 2), ("alternating", "shared", 1)
    ]  # fmt: skip
    assert len(rows) == len(MEASURED)
    for row in rows:
        assert len(row["plain_seconds"]) == len(row["private_seconds"]) == 2
        assert row["private"] > 50_000 and row["ratio"] > 0
    assert "times as long" in markdown(result)
