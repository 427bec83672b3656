"""Live progress: its lines without a terminal, its display in a terminal, and the estimate of the time left."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from feddat.watching.live import ComparisonDisplay, RunDisplay

COUNTS = {"total": 111_600_000, "trainable": 894_530, "communicated": 12}
SAID = "parameters: 111,600,000 in the model, 894,530 trained, 12 sent per round"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def text_console(terminal: bool, width: int = 100) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=terminal, width=width, color_system=None, legacy_windows=False), file


def round_event(number: int, score: float, left: float = 12.0, **more: Any) -> dict[str, Any]:
    scores = {"validation": {"dat": score, "local": 1.0}}
    metrics = {"loss": 1.25, "steps": 9.0}
    event = {"event": "round", "round": number, "rounds": 4, "metrics": metrics, "scores": scores, "seconds_left": left}
    return event | more


def feed(display: RunDisplay, number: int) -> None:
    for client in ("art", "photo"):
        losses = {"loss": 1.25, "kl_dat": 0.5, "steps": 9.0}
        display({"event": "fit", "round": number, "client": client, "examples": 5, "metrics": losses})
    for client in ("art", "photo"):
        scores = {"dat": 50.0 + number, "local": 40.0}
        event = {"event": "eval", "round": number, "client": client, "split": "validation", "scores": scores}
        display(event | {"examples": 5})


def test_without_a_terminal_there_is_a_line_now_and_then() -> None:
    console, file = text_console(terminal=False)
    clock = Clock()
    with RunDisplay(console, "FedDAT on mini/domain", clock) as display:
        display({"event": "start", "round": 0, "rounds": 4, "clients": ["art", "photo"], "parameters": COUNTS})
        for number, now in ((1, 1.0), (2, 2.0), (3, 8.0), (4, 9.0)):
            clock.now = now
            feed(display, number)
            display(round_event(number, 50.0 + number, left=4.0 - number))
    # Round 2 comes one second after the first line: too soon. The last round is always shown.
    assert file.getvalue().splitlines() == [
        "FedDAT on mini/domain",
        SAID,
        "round 1/4 · mean validation score 51.0 % · loss 1.250 · 1 s, about 3 s left",
        "round 3/4 · mean validation score 53.0 % · loss 1.250 · 8 s, about 1 s left",
        "round 4/4 · mean validation score 54.0 % · loss 1.250 · 9 s, about 0 s left",
    ]


def test_a_terminal_shows_every_client_with_scores_and_losses() -> None:
    console, file = text_console(terminal=True)
    clock = Clock()
    with RunDisplay(console, "a run", clock) as display:
        display({"event": "start", "round": 0, "rounds": 4, "clients": ["photo", "art"], "parameters": COUNTS})
        feed(display, 1)
        display(round_event(1, 51.0))
        console.print(display.render())
    lines = [" ".join(line.split()) for line in file.getvalue().splitlines()]
    assert any(line.startswith("round 1/4") and "mean validation score 51.0 %" in line for line in lines)
    assert any(line.endswith(SAID) for line in lines)
    assert "client dat local loss kl dat" in lines
    # In the order of the federation, not of the alphabet.
    assert lines.index("photo 51.0 % 40.0 % 1.250 0.500") < lines.index("art 51.0 % 40.0 % 1.250 0.500")


def test_a_mean_is_named_by_its_own_split_while_the_next_one_is_evaluated() -> None:
    console, file = text_console(terminal=True)
    display = RunDisplay(console, "a run", Clock())
    display(round_event(1, 51.0))
    scores = {"dat": 9.0, "local": 9.0}
    display({"event": "eval", "round": 2, "client": "art", "split": "test", "scores": scores, "examples": 5})
    console.print(display.render())
    assert "mean validation score 51.0 %" in file.getvalue()


def test_a_narrow_terminal_leaves_out_the_parts_of_the_loss() -> None:
    console, file = text_console(terminal=True, width=40)
    display = RunDisplay(console, "a run", Clock())
    feed(display, 1)
    console.print(display.render())
    assert "loss" in file.getvalue()
    assert "kl dat" not in file.getvalue()


def test_trouble_with_a_client_stays_on_screen() -> None:
    console, file = text_console(terminal=False)
    display = RunDisplay(console, "a run", Clock())
    display({"event": "failed", "round": 2, "kind": "train", "client": "[art]", "reason": "NaN"})
    assert file.getvalue() == "warning: round 2: client [art] failed: NaN\n"


def comparison(terminal: bool = False) -> tuple[ComparisonDisplay, Clock, io.StringIO]:
    console, file = text_console(terminal)
    clock = Clock()
    runs = {"feddat-s0": ("FedDAT", 0, 4), "head-s0": ("Head only", 0, 4), "feddat-s1": ("FedDAT", 1, 4)}
    return ComparisonDisplay(console, "3 runs", runs, clock), clock, file


def start(run: str, number: int = 0) -> dict[str, Any]:
    return {"event": "start", "run": run, "round": number, "rounds": 4, "clients": []}


def test_time_left_counts_rounds_of_this_session_only() -> None:
    display, clock, _ = comparison()
    display.finish("feddat-s0", 60.0, before=True)
    assert display.seconds_left() is None
    clock.now = 100.0  # loading libraries says nothing about the pace
    display(start("head-s0", 2))
    assert display.seconds_left() is None
    clock.now = 110.0
    display(round_event(3, 50.0, run="head-s0"))
    # One round took 10 s; one of head and four of feddat's seed 1 are left.
    assert display.seconds_left() == 50.0
    display({"event": "failure", "run": "head-s0", "reason": "x"})
    assert display.seconds_left() == 40.0


def test_a_comparison_without_a_terminal() -> None:
    display, clock, file = comparison()
    with display:
        display(start("head-s0"))
        clock.now = 10.0
        display(round_event(1, 50.0, run="head-s0"))
        display({"event": "failed", "run": "head-s0", "round": 1, "kind": "train", "client": "art", "reason": "NaN"})
        display({"event": "done", "run": "head-s0", "summary": {"mean": 61.25}})
    assert file.getvalue().splitlines() == [
        "3 runs",
        "Head only seed 0: round 1/4, mean score 50.0 % · 0 of 3 runs done · 10 s, about 1 min 50 s left",
        "warning: round 1: client art failed: NaN",
        "Head only seed 0: finished, mean score 61.2 % · 1 of 3 runs done · 10 s, about 20 s left",
    ]


def test_a_comparison_in_a_terminal_has_a_line_per_run() -> None:
    display, clock, file = comparison(terminal=True)
    with display:
        display(start("feddat-s0"))
        clock.now = 5.0
        display(round_event(2, 55.0, run="feddat-s0"))
        display({"event": "failure", "run": "head-s0", "reason": "no disk"})
        display.console.print(display.render())
    lines = [" ".join(line.replace("━", "").replace("╸", "").split()) for line in file.getvalue().splitlines()]
    assert "FedDAT 0 2/4 55.0 % 1.250 running" in lines
    assert "Head only 0 0/4 failed" in lines
    assert "FedDAT 1 0/4 waiting" in lines
    assert any(line.endswith("warning: run head-s0 failed: no disk") for line in lines)
    # Two rounds took 5 s; of the runs that have not failed, 6 rounds are left.
    assert any("0 of 3 runs done 5 s, about 15 s left" in line for line in lines)


def test_a_low_terminal_shows_the_runs_at_work_and_all_failures() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=20, color_system=None, legacy_windows=False)
    display = ComparisonDisplay(console, "many runs", {f"r{n}": (f"method{n}", n, 4 + n) for n in range(50)}, Clock())
    display(start("r3"))
    display(round_event(2, 55.0, run="r3"))
    display({"event": "failure", "run": "r9", "reason": "x"})
    display.finish("r0", 60.0)
    console.print(display.render())
    text = file.getvalue()
    assert "method3" in text and "2/7" in text and "method9" in text
    assert "method0" not in text and "method7" not in text
    assert "1 of 50 runs done" in text
    assert len(text.splitlines()) < 20
