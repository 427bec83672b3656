"""The pages of runs and comparisons hold the numbers, are self-contained, and display in a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from made_up import CLIENTS, make_comparison, make_run
from PIL import Image

from browser import BROWSER, run_browser
from feddat.example import DataError
from feddat.report import plots
from feddat.report.numbers import human_bytes, human_count, human_duration
from feddat.report.page import write_report


def browse(page: Path, *flags: str) -> str:
    """Open the page in a headless browser and return what it prints."""
    return run_browser(page.parent, page.as_uri(), *flags)


class Links(HTMLParser):
    """Collects every address that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"src", "href", "srcset", "data", "xlink:href"}
        self.found += [value or "" for name, value in attrs if name in wanted]


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_comparison_page_holds_the_table_and_every_section(tmp_path: Path) -> None:
    page = write_report(make_comparison(tmp_path / "demo"))
    assert page == tmp_path / "demo" / "report.html"
    html = page.read_text(encoding="utf-8")
    text = text_of(html)
    assert "FedDAT, FedAvg, Local only and Head only on mini/domain" in text
    # feddat's level is 66 for the first client; seeds 0, 1, 2 add 0, 1, 2.
    assert "art 67.0 ± 1.0 59.0 ± 1.0 56.0 ± 1.0 42.0 ± 1.0" in text
    assert "Mean 69.0 ± 1.0 61.0 ± 1.0 58.0 ± 1.0 44.0 ± 1.0" in text
    for heading in ("Accuracy", "Learning curves", "Communication and computing", "Sample predictions", "Setting"):
        assert f"<h2>{heading}</h2>" in html
    # Plots of means and of differences, a panel per client, one for their mean, and the diagram of what is sent.
    assert html.count("<svg ") == 2 + len(CLIENTS) + 1 + 1
    # The whole model instead: 9 M parameters in 4 bytes, both ways for 5 clients in 10 rounds.
    assert "FedDAT 9.0 M 450 k 150 k 1.67 % 30.0 MB 60.0 MB 3.6 GB" in text
    assert "method: feddat" in html


def test_a_comparison_leaves_its_table_for_papers_and_spreadsheets(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "comparison")
    write_report(folder)
    markdown = (folder / "results.md").read_text().splitlines()
    rows = (folder / "results.csv").read_text().splitlines()
    assert markdown[0].startswith("| client | ")
    assert len(markdown) == len(rows) + 1  # the line between head and body
    for client in CLIENTS:
        assert any(line.startswith(f"| {client} |") for line in markdown)
        assert any(row.startswith(f"{client},") for row in rows)
    assert not list(folder.glob(".*"))


def test_run_page_compares_the_routes(tmp_path: Path) -> None:
    html = write_report(make_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "art 66.0 63.0 60.0" in text_of(html)
    assert "Dual teacher (DAT)" in html


def test_run_page_of_a_method_with_one_answer(tmp_path: Path) -> None:
    text = text_of(write_report(make_run(tmp_path / "run", "head")).read_text(encoding="utf-8"))
    assert "Client Head only art 41.0 photo 42.0" in text
    assert "Head only 9.0 M 450 k 0 0.00 % 0 B 0 B –" in text


def test_page_is_self_contained_and_escapes_questions(tmp_path: Path) -> None:
    html = write_report(make_comparison(tmp_path / "demo", seeds=1)).read_text(encoding="utf-8")
    links = Links()
    links.feed(html)
    assert links.found
    assert all(link.startswith(("data:", "#")) for link in links.found)
    assert not re.search(r"@import|url\((?!#|data:)", html)
    assert "Is there a &lt;b&gt;dog&lt;/b&gt;?" in html
    assert "<script" not in html


def test_the_same_folder_gives_the_same_page(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "demo", seeds=2)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first
    assert not list(folder.glob(".report*"))


def test_a_round_written_twice_after_a_resume_counts_once(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    once = write_report(folder).read_text(encoding="utf-8")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    (folder / "metrics.jsonl").write_text("\n".join(lines + lines[-3:]) + "\n")
    assert write_report(folder).read_text(encoding="utf-8") == once


def test_of_many_clients_some_are_drawn_and_all_are_listed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "head")
    summary = json.loads((folder / "summary.json").read_text())
    names = [f"site-{number:03}" for number in range(100)]
    summary["clients"] = {name: {"score": 50.0} for name in names}
    (folder / "summary.json").write_text(json.dumps(summary))
    line = {"round": 1, "split": "validation", "route": "score", "score": 50.0}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | {"client": name}) + "\n" for name in names))
    html = write_report(folder).read_text(encoding="utf-8")
    drawn = re.findall(r"<h3>(site-\d+)</h3>", html)
    assert len(drawn) == len(set(drawn)) == 24
    assert (drawn[0], drawn[-1]) == ("site-000", "site-095")
    assert "of 76 other clients are omitted" in html
    assert all(name in text_of(html) for name in names)


def test_a_page_without_curves_and_predictions(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    for name in ("metrics.jsonl", "predictions.json", "config.yaml"):
        (folder / name).unlink()
    html = write_report(folder).read_text(encoding="utf-8")
    assert "Learning curves" not in html
    assert "Sample predictions" not in html
    assert "<h2>Accuracy</h2>" in html


def test_folders_that_are_no_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"neither summary.json nor comparison.json in this folder$"):
        write_report(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(DataError, match="the run has not finished"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(DataError, match=r"summary.json: not JSON"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text(json.dumps({"method": "feddat"}))
    with pytest.raises(DataError, match="key 'clients' is missing"):
        write_report(tmp_path)


def test_curves_are_coloured_by_the_page_and_end_where_the_numbers_do() -> None:
    svg = plots.learning_curves({"a": {1: [10.0], 2: [20.0, 30.0]}}, (0, 100), 'curve "x" <y>')
    assert "stroke: var(--s1)" in svg
    assert "#0102" not in svg
    assert "#0101" not in svg
    assert 'aria-label="curve &quot;x&quot; &lt;y&gt;"' in svg
    assert plots.score_limits([{"a": {1: [10.0], 2: [60.0]}}]) == (7.0, 63.0)
    assert plots.score_limits([]) == (0.0, 100.0)


def test_numbers_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1500, 2.5e6, 312e6, 7e12)] == [
        *("0 B", "999 B", "1.5 kB", "2.5 MB", "312 MB", "7.0 TB")
    ]
    assert [human_count(n) for n in (12, 1500, 9e6, 2e9)] == ["12", "1.5 k", "9.0 M", "2.0 G"]
    assert [human_duration(n) for n in (41.6, 187, 7800)] == ["42 s", "3 min 7 s", "2 h 10 min"]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1200, 500])
def test_a_browser_shows_the_page(tmp_path: Path, width: int) -> None:
    page = write_report(make_comparison(tmp_path / "demo", seeds=2))
    picture = tmp_path / "page.png"
    browse(page, f"--window-size={width},1600", f"--screenshot={picture}")
    with Image.open(picture) as opened:
        assert opened.size == (width, 1600)
        pixels = np.asarray(opened.convert("RGB")).astype(int)
    # The picture has many colours, rows that are not blank, and the first series' blue of the plots.
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100
    assert (pixels.std(axis=(1, 2)) > 3).mean() > 0.3
    blue = (pixels[..., 2] > 180) & (pixels[..., 0] < 100) & (pixels[..., 1] < 130)
    assert blue.sum() > 300
    dom = text_of(browse(page, "--dump-dom"))
    assert "art 66.5 ± 0.7 58.5 ± 0.7 55.5 ± 0.7 41.5 ± 0.7" in dom
