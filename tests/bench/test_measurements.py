"""Every benchmark at its smallest size: its results are complete and plausible."""

import pytest
import torch

from feddat.adapters.int8_products import cannot_multiply
from feddat.bench import epoch, folders, step
from feddat.bench.clients import bench_clients, own_data, write_table
from feddat.bench.jobs import bench_jobs
from feddat.bench.wire import bench_wire
from feddat.config import load_config
from helpers import make_tiny_vilt


@pytest.fixture
def tiny(monkeypatch):
    """Add a two-layer model to those that are measured; return its name."""
    words = [f"w{index}" for index in range(9)]

    def write(folder):
        make_tiny_vilt(folder, words)

    monkeypatch.setitem(folders.MODELS, "tiny", folders.BenchModel("tiny", write, side=40, words=3, batch=2))
    return "tiny"


def test_steps_are_taken_in_turns_and_counted(tiny, tmp_path):
    said = []
    result = step.bench_step(tmp_path, [tiny], cycles=2, precision="fp32", memory=False, say=said.append)
    rows = {row["schedule"]: row for row in result["rows"]}
    in_8_bits = rows.pop("int8", None)  # only on CPUs with 8-bit products
    assert (in_8_bits is None) == (cannot_multiply("cpu") is not None)
    assert list(rows) == ["published", "alternating", "joint", "plain"]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in rows.values())
    flops = {schedule: row["flops"] for schedule, row in rows.items()}
    # The published step runs the whole model three times; ours runs the prefix once and the rest twice.
    # Both orders of ours cost about the same.
    assert flops["published"] > 1.2 * flops["alternating"]
    assert flops["alternating"] == pytest.approx(flops["joint"], rel=0.05)
    assert flops["plain"] < 0.9 * flops["joint"]  # not half: a tiny model is mostly prefix and heads
    assert in_8_bits is None or in_8_bits["flops"] == pytest.approx(flops["joint"], rel=0.05)
    turns = [text.split()[1].rstrip(",") for text in said if " of 2" in text]
    assert turns == 2 * [row["schedule"] for row in result["rows"]]


def test_an_unknown_schedule_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'fast': unknown; expected one of published, alternating"):
        step.bench_step(tmp_path, [], ["fast"])


@pytest.mark.parametrize("asked", [{"schedules": ["int8"]}, {"precision": "int8"}])
def test_8_bits_are_not_measured_where_they_are_not_multiplied(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    with pytest.raises(ValueError, match="int8: this CPU has no 8-bit products"):
        step.bench_step(tmp_path, [], **asked)


def test_only_a_cold_cache_is_filled(tiny, tmp_path, monkeypatch):
    from feddat.models.vilt.encoder import ViltEncoder

    read, encode = [], ViltEncoder.image

    def note(self, image):
        if image.any():  # loading a model encodes a blank picture
            read.append(image)
        return encode(self, image)

    monkeypatch.setattr(ViltEncoder, "image", note)
    result = epoch.bench_epoch(tmp_path, tiny, cycles=1, examples=5, precision="fp32")
    assert [(row["schedule"], row["cache"]) for row in result["rows"]] == list(epoch.CASES)
    # published: once to prepare the targets, then three passes; cold: once; warm: never
    assert len(read) == 5 + 3 * 5 + 5
    assert all(row["seconds"][0] > row["reading"][0] > 0 for row in result["rows"])


def test_an_updates_bytes_are_its_numbers_and_little_more(tmp_path):
    rows = {row["format"]: row for row in bench_wire(tmp_path, ["vilt-mini"], cycles=2)["rows"]}
    for name, width in {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}.items():
        assert width < rows.pop(name)["bytes"] / 16850 < width + 0.5
    assert not rows


@pytest.mark.slow  # two processes load their libraries
def test_turns_side_by_side_are_equal_and_compared(tiny, tmp_path):
    table = write_table(
        folders.make_client(tiny, folders.model_folder(tiny, tmp_path / "models"), tmp_path / "pictures", 4),
        tmp_path / "pictures",
    )
    config = load_config(benchmark=None, clients=own_data(table, 3), model=str(tmp_path / "models" / tiny))
    said = []
    result = bench_jobs(tmp_path / "jobs", config, [2], cycles=2, say=said.append)
    ways = ["this process, 1 thread", "this process, 2 threads", "2 workers, 1 thread each"]
    assert [row["way"] for row in result["rows"]] == ways
    assert [text.split(", turn")[0] for text in said] == 3 * ways
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in result["rows"])


@pytest.mark.slow
def test_memory_does_not_grow_with_clients(tmp_path):
    """Compare one client with 40 in fresh processes: more clients than keep their prepared data."""
    one, many = bench_clients(tmp_path, [1, 40])["rows"]
    assert many["memory"]["peak"] < 1.1 * one["memory"]["peak"]
