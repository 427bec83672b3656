"""What means leave out is said: clients without a score, and replies that could not be used."""

from made_up import make_run, summary

from feddat.report.left_out import left_out
from feddat.report.markdown import markdown
from feddat.report.page import write_report


def test_a_complete_run_says_nothing():
    assert left_out([summary("feddat") | {"failed": 0, "refused": 0, "missing": []}]) == []
    assert left_out([summary("feddat")]) == []  # a run of an earlier version


def test_missing_clients_and_unusable_replies_are_named_with_their_run():
    lacking = summary("feddat", 1) | {"missing": ["bob", "cid"], "failed": 3, "refused": 1}
    assert left_out([summary("fedavg"), lacking]) == [
        "Clients without a score: FedDAT, seed 1 on mini/domain: bob, cid. Means leave out runs that lack a client of "
        "others.",
        "Replies of clients that could not be used: FedDAT, seed 1 on mini/domain: 3 failed and 1 refused. "
        "The run's log.jsonl says why.",
    ]


def test_rounds_that_changed_nothing_are_named():
    runs = [summary("feddat", 1) | {"without_update": [9, 10]}, summary("fedavg") | {"without_update": list(range(7))}]
    assert left_out(runs) == [
        f"Rounds after which the global adapter stayed as it was: FedDAT, seed 1 on mini/domain: rounds 9, 10 of "
        f"{runs[0]['rounds']}; FedAvg, seed 0 on mini/domain: 7 rounds of {runs[1]['rounds']}. log.jsonl says why."
    ]


def test_clients_that_do_not_share_are_not_missing():
    assert left_out([summary("feddat") | {"missing": ["ann", "bob"], "not_shared": ["ann"]}]) == [
        "Clients without a score, which the mean leaves out: FedDAT, seed 0 on mini/domain: bob."
    ]


def test_many_runs_are_counted():
    assert left_out([summary("feddat", seed) | {"failed": 1} for seed in range(6)])[0].endswith(
        "FedDAT, seed 3 on mini/domain: 1 failed; 2 more runs. The run's log.jsonl says why."
    )


def test_pages_and_tables_say_it(tmp_path):
    folder = make_run(tmp_path / "run")
    path = folder / "summary.json"
    path.write_text(path.read_text().replace('"seconds": 187.0', '"seconds": 187.0, "missing": ["bob"], "failed": 2'))
    for text in (write_report(folder).read_text(), markdown(folder)):
        assert "FedDAT, seed 0 on mini/domain: bob." in text
        assert "FedDAT, seed 0 on mini/domain: 2 failed." in text
