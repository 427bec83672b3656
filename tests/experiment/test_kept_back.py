"""If clients do not share their scores, everything that shows scores says so."""

import io
import json
import re
import time

import pytest
from rich.console import Console

from feddat.config import ConfigError
from feddat.experiment import Experiment
from feddat.experiment.grids.comparison import compare
from feddat.report import tables
from feddat.report.folder import read_folder
from feddat.report.markdown import markdown
from feddat.watching.dashboard import Dashboard
from feddat.watching.live import RunDisplay
from feddat.watching.progress import read_all
from feddat.watching.status import progress_view


def printed(what):
    file = io.StringIO()
    Console(file=file, width=100).print(what)
    return file.getvalue()


@pytest.mark.parametrize("sharing", ["none", "counts"])
def test_scores_that_are_kept_back_are_called_so_everywhere(make_config, sharing):
    config = make_config(share_metrics=sharing)
    file = io.StringIO()
    states = []
    with RunDisplay(Console(file=file, width=100), "a run") as display:

        def watch(event):
            display(event)
            if event["event"] == "round":
                states.append([client.state for client in read_all(config.runs_dir, time.time())[0][0].clients])
                states.append(printed(display.render()))

        summary = Experiment(config).run(watch)
    assert (summary["mean"], summary["clients"], summary["not_shared"]) == (None, {}, ["ann", "bob"])
    assert states[0] == ["answered", "answered"], "they did answer"
    assert "scores not shared" in file.getvalue()
    assert re.search(r"ann +not shared", states[1])
    content = read_folder(config.run_dir)
    text = printed(tables.route_table(content.summaries) or tables.score_table(content.summaries))
    report = (config.run_dir / "report.html").read_text()
    runs, _ = read_all(config.runs_dir, time.time())
    status = printed(progress_view(runs, time.time()))
    for shown in (markdown(config.run_dir), status, printed(tables.to_rich(tables.score_table(content.summaries)))):
        assert re.search(r"ann\W.*not shared", shown), shown
    assert report.count("not shared") >= 4, "the tile, both clients, their mean"
    assert re.search(r"run +finished .* 2/2 +not shared", status)
    with Dashboard(config.runs_dir) as server:
        state = server.status()
    assert not state["unreadable"]
    assert [(run["score"], run["shares"]) for run in state["runs"]] == [(None, False)]
    log = [json.loads(line) for line in (config.run_dir / "log.jsonl").read_text().splitlines()]
    said = {line["message"] for line in log if line["event"] == "eval" and line["round"] == 2}
    assert "round 2: ann on test: scores not shared" in said
    for shown in (text, report, status, file.getvalue()):
        assert not re.search(r"\bnan\b", shown.lower())


def test_scores_are_what_a_comparison_is_for(make_config):
    with pytest.raises(ConfigError, match="share_metrics: counts, but comparisons need scores"):
        compare(make_config(share_metrics="counts"), ["feddat"], [0])
