"""Tables on consoles of any width: every cell in full, no line too long, and in one piece if there is room."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from feddat.report import data_table, method_table, tables
from feddat.report.fitted import FittedTable
from feddat.report.methods import method_name
from feddat.watching.live import ComparisonDisplay, RunDisplay
from feddat.watching.progress import ClientProgress, RunProgress
from feddat.watching.status import progress_view

CLIENTS = ("sketch", "night", "photo", "silhouette", "easy-vqa", "a very long name of a hospital's department")
METHODS = ("feddat", "feddat-mild", "fedavg-2x", "central-lora", "head")


def shown(what, width, terminal=False):
    file = io.StringIO()
    Console(file=file, width=width, force_terminal=terminal, color_system=None, legacy_windows=False).print(what)
    return file.getvalue()


def summaries(clients=CLIENTS, methods=METHODS):
    return [
        {
            "method": method,
            "seed": seed,
            "clients": {client: {"score": 50.0 + place + seed} for place, client in enumerate(clients)},
            "parameters": {"trainable": 894_528, "communicated": 500},
        }
        for method in methods
        for seed in (0, 1, 2)
    ]


@pytest.mark.parametrize("width", [60, 80, 100, 400])
def test_the_tables_of_a_comparison(width):
    found = summaries()
    methods = method_table.method_table(found)
    for table in (method_table.to_rich(methods, "scores"), tables.to_rich(tables.score_table(found), "scores")):
        text = shown(table, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        assert text.count("scores") == 1
        assert (text.count("method") + text.count("client") == 1) == (width == 400), "in one piece where there is room"
    text = " ".join(shown(method_table.to_rich(methods), width).split())
    for whole in (*CLIENTS, "Δ to FedDAT [95 %]", "0.0 [0.0, 0.0]", "53.5 ± 1.0"):
        assert whole in text
    assert text.count("FedDAT, mild distillation") == text.count("Centralised, LoRA") >= 1


def test_each_part_has_the_rows_names_and_the_title_stands_once():
    table = FittedTable(["row", "one", "two"], [[Text("first"), Text("1" * 10), Text("2" * 10)]], "A title")
    lines = [line.split() for line in shown(table, 20).splitlines() if line.strip(" ─")]
    assert lines == [["A", "title"], ["row", "one"], ["first", "1" * 10], ["row", "two"], ["first", "2" * 10]]
    assert len([line for line in shown(table, 40).splitlines() if line.strip(" ─")]) == 3


WORDS = st.text("abcdefg", min_size=1, max_size=12)


@given(st.integers(1, 9), st.integers(0, 4), st.data(), st.integers(40, 120))
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_no_cell_is_lost_or_cut(columns, rows, data, width):
    heads = [f"h{n}{data.draw(WORDS)}" for n in range(columns + 1)]
    cells = [[f"r{row}c{n}{data.draw(WORDS)}" for n in range(columns + 1)] for row in range(rows)]
    text = shown(FittedTable(heads, [[Text(cell) for cell in row] for row in cells]), width)
    words = text.split()
    for word in [*heads[1:], *(cell for row in cells for cell in row[1:])]:
        assert words.count(word) == 1
    for name in (heads[0], *(row[0] for row in cells)):
        assert words.count(name) >= 1, "in every part"
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [60, 80, 140])
def test_live_pictures(width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    run = RunDisplay(console, "a run")
    losses = dict.fromkeys(("loss", "task_global", "kl_global", "task_dat", "kl_dat"), 1.25)
    for client in CLIENTS:
        run({"event": "fit", "round": 1, "client": client, "examples": 5, "metrics": losses})
        scores = {"dat": 100.0, "local": 100.0, "global": 100.0}
        run({"event": "eval", "round": 1, "client": client, "split": "validation", "scores": scores, "examples": 5})
    names = {f"{m}-s{n}": (f"{method_name(m)} · domain/label", n, 30) for m in METHODS for n in (0, 1)}
    several = ComparisonDisplay(console, "runs", names)
    several({"event": "start", "run": "feddat-mild-s1", "round": 29, "rounds": 30, "clients": []})
    for picture in (run.render(), several.render()):
        text = shown(picture, width, terminal=True)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
    text = shown(run.render(), width, terminal=True)
    assert text.count("100.0 %") == 3 * len(CLIENTS)
    assert ("kl dat" in text) == (width == 140)
    words = shown(several.render(), width, terminal=True).split()
    assert words.count("0/30") + words.count("29/30") == 10


@pytest.mark.parametrize("width", [60, 80, 200])
def test_what_does_not_count(width):
    counts = {"questions": 1000, "left_out": 1, "unanswerable": 22, "cut": 333, "empty": 4, "repeated": 5, "seen": 6}
    found = data_table.data_table([{"data": {client: {"train": counts, "test": counts} for client in CLIENTS}}])
    text = shown(data_table.to_rich(found), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert text.count("333") == 2 * len(CLIENTS)
    for place in ("silhouette, train", "silhouette, test"):
        assert " ".join(text.split()).count(place) >= 1


@pytest.mark.parametrize("width", [80, 120, 200])
def test_the_state_of_runs(width):
    reason = "its process was killed (SIGKILL) over a model that is larger than this machine's memory"
    clients = [ClientProgress(name, "failed", reason, 12, 3, 51.25, True, 0.125) for name in CLIENTS]
    run = RunProgress(
        "study-wire/int8-with-differences/feddat-mild-s0", "feddat-mild", "mini/domain", 0, 30,
        state="running", round=12, doing="train", seconds_left=4000.0, updated=0.0,
        bytes={"up": 12_345_678, "down": 12_345_678}, score=51.25, clients=clients,
    )  # fmt: skip
    text = shown(progress_view([run], 100.0), width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for whole in ("12/30", "51.2 %", "SIGKILL", "memory"):
        assert whole in text
