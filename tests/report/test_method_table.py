"""The table of methods: how many parameters each trains and sends, its scores, and its difference to FedDAT."""

from __future__ import annotations

import csv
import io
from typing import Any

from rich.console import Console

from feddat.report import method_table as mt


def run(method: str, seed: int, sent: int = 0, **clients: Any) -> dict[str, Any]:
    scores = {c: s if isinstance(s, dict) else {"score": s} for c, s in clients.items()}
    return {
        "method": method,
        "seed": seed,
        "clients": scores,
        "parameters": {"trainable": 894_528, "communicated": sent},
    }


RUNS = [
    run("feddat", 0, 500, art={"dat": 60.0, "local": 5.0}, photo={"dat": 70.0, "local": 71.0}),
    run("feddat", 1, 500, art={"dat": 64.0, "local": 5.0}, photo={"dat": 70.0, "local": 73.0}),
    run("fedavg", 0, 500, art=58.0, photo=70.0),
    run("fedavg", 1, 500, art=62.0, photo=70.0),
    run("central", 0, art=90.0, photo=90.0),
    run("central", 1, art=90.0, photo=90.0),
]


def test_rows_hold_parameters_scores_and_the_distance_from_feddat() -> None:
    table = mt.method_table(RUNS)
    assert table.heads == ("method", "trained", "sent", "art", "photo", "Mean", "Δ to FedDAT [95 %]")
    feddat, fedavg, central = table.rows
    assert table.texts(feddat) == ["FedDAT", "895 k", "500", "62.0 ± 2.8", "70.0 ± 0.0", "66.0 ± 1.4", "–"]
    # FedAvg is behind by 2 on art and by 0 on photo, with either seed: 0, 1 or 2 on the mean of two clients.
    assert table.texts(fedavg)[-1] == "−1.0 [−10.2, +8.2]"
    assert [cell.best for cell in feddat.cells] == [True, False, True]
    assert not any(cell.best for cell in central.cells), "a reference, not a contender"


def test_without_feddat_nothing_is_compared_with_it() -> None:
    assert mt.method_table(RUNS[2:]).heads[-1] == "Mean"
    assert mt.method_table(RUNS[:2]).heads[-1] == "Mean"


def test_a_seed_that_lacks_a_client_has_no_mean() -> None:
    table = mt.method_table([run("local", 0, art=50.0, photo=60.0), run("local", 1, art=52.0)])
    assert [str(cell) for cell in table.rows[0].cells] == ["51.0 ± 1.4", "60.0", "55.0"]


def test_what_clients_receive_is_shown_where_it_differs_from_what_they_send() -> None:
    def counted(method: str, seed: int, received: int) -> dict[str, Any]:
        made = run(method, seed, 500, art=50.0, photo=50.0)
        return made | {"parameters": made["parameters"] | {"received": received}}

    assert "received" not in mt.method_table([*RUNS, counted("local", 0, 500)]).heads
    # A run of an earlier version, which did not count what is received, stands before one that does.
    runs = [*RUNS, run("fedex-lora", 0, 500, art=50.0, photo=50.0), counted("fedex-lora", 1, 3000)]
    table = mt.method_table(runs)
    assert table.heads == ("method", "trained", "sent", "received", "art", "photo", "Mean", "Δ to FedDAT [95 %]")
    assert table.texts(table.rows[-1])[:5] == ["FedEx-LoRA", "895 k", "500", "3.0 k", "50.0 ± 0.0"]
    assert "| FedDAT | 895 k | 500 | – | **62.0 ± 2.8** |" in mt.to_markdown(table)
    assert r"FedDAT & 895 k & 500 & -- & \textbf{62.0" in mt.to_latex(table)
    assert "<th scope='col'>Received</th><th scope='col'>art</th>" in mt.to_html(table)
    assert "<td>–</td><td class='best'>62.0" in mt.to_html(table)
    rows = list(csv.DictReader(io.StringIO(mt.to_csv(table))))
    assert [row["received"] for row in rows] == ["", "", "", "3000"]
    assert rows[0]["art mean"] == "62"
    console = Console(file=io.StringIO(), width=100)
    console.print(mt.to_rich(table))
    assert "FedEx-LoRA 50.0 50.0 50.0" in " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]


def test_several_federations_together() -> None:
    two = {
        "mini/a": [run("feddat", 0, art=50.0, photo=60.0), run("local", 0, art=40.0, photo=60.0)],
        "mini/b": [run("feddat", 0, art=10.0)],
    }
    table = mt.overview(two)
    assert table.columns == ("mini/a", "mini/b", "Mean")
    assert [[str(cell) for cell in row.cells] for row in table.rows] == [["55.0", "10.0", "40.0"], ["50.0", "–", "–"]]
    assert table.rows[1].difference is None, "as its mean, it needs all clients"


def test_an_unfinished_seed_changes_neither_means_nor_differences() -> None:
    done = {
        "mini/a": [run("feddat", 0, art=50.0, photo=60.0), run("local", 0, art=40.0, photo=60.0)],
        "mini/b": [run("feddat", 0, art=10.0), run("local", 0, art=9.0)],
    }
    begun = done | {
        "mini/a": [*done["mini/a"], run("feddat", 1, art=90.0, photo=90.0), run("local", 1, art=0.0, photo=0.0)]
    }
    (before, after) = (mt.overview(federations).rows[1] for federations in (done, begun))
    assert after.difference == before.difference and after.cells[-1] == before.cells[-1]


def test_every_form_says_the_same() -> None:
    table = mt.method_table(RUNS)
    fedavg = "| FedAvg | 895 k | 500 | 60.0 ± 2.8 | 70.0 ± 0.0 | 65.0 ± 1.4 | −1.0 [−10.2, +8.2] |"
    assert fedavg in mt.to_markdown(table)
    assert "| **62.0 ± 2.8** | 70.0 ± 0.0 |" in mt.to_markdown(table)
    rows = list(csv.DictReader(io.StringIO(mt.to_csv(table))))
    assert rows[1]["method"] == "FedAvg" and rows[1]["trained"] == "894528"
    assert (rows[1]["difference"], rows[1]["difference low"]) == ("-1", "-10.1682")
    assert rows[0]["difference"] == ""
    latex = mt.to_latex(table)
    assert r"\textbf{62.0 $\pm$ 2.8} & 70.0 $\pm$ 0.0" in latex
    assert r"$\Delta$ to FedDAT [95 \%] \\" in latex
    assert r"Centralised & 895 k & 0 &" in latex
    assert "<td class='best'>62.0 <small>± 2.8</small></td>" in mt.to_html(table)
    console = Console(file=io.StringIO(), width=100)
    console.print(mt.to_rich(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "FedAvg 60.0 70.0 65.0 ± 1.4 −1.0 [−10.2, +8.2]" in " ".join(shown.split())
    narrow = Console(file=io.StringIO(), width=64)
    narrow.print(mt.to_rich(table))
    assert "65.0 ± 1.4" in narrow.file.getvalue()  # type: ignore[attr-defined]
    assert "−1.0 [−10.2, +8.2]" in narrow.file.getvalue()  # type: ignore[attr-defined]
    narrower = Console(file=io.StringIO(), width=54)
    narrower.print(mt.to_rich(table))
    assert "…" not in (shown := narrower.file.getvalue())  # type: ignore[attr-defined]
    assert "+8.2]" in shown, "an interval goes over two lines before it is cut"


def test_what_a_search_found() -> None:
    tuning = {
        "keys": ["lr", "a"],
        "best": {"feddat": {"lr": 0.2, "a": 1}, "head": {"lr": 0.1, "a": 1}},
        "scores": {"feddat": {"lr=0.1 a=1": 40.0, "lr=0.2 a=1": 41.04}, "head": {"lr=0.1 a=1": 30.0}},
    }
    assert mt.tuning_markdown(tuning).splitlines() == [
        "| method | lr=0.1 a=1 | lr=0.2 a=1 |",
        "| --- | ---: | ---: |",
        "| FedDAT | 40.0 | **41.0** |",
        "| Head only | **30.0** | – |",
    ]
