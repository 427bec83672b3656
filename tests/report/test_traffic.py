"""What the table of communication says, with numbers that can be checked by hand."""

from __future__ import annotations

from made_up import CLIENTS, summary

from feddat.report.tables import by_method
from feddat.report.traffic import rows


def test_the_whole_model_is_its_parameters_in_four_bytes_both_ways() -> None:
    assert len(CLIENTS) == 5
    plain = summary("fedavg") | {"rounds": 10, "parameters": {"total": 100, "trainable": 20, "communicated": 10}}
    # Other arrays, more evaluations or a narrow format change the bytes, but not what the model would have taken.
    others = [plain | {"method": "other", "bytes": {"up": up, "down": 9 * up}} for up in (1000, 50_000)]
    for run in (plain, *others):
        assert rows(by_method([run]))[0]["whole"] == 2 * 4 * 100 * 10 * 5
    assert rows(by_method([plain | {"parameters": {"total": 100, "communicated": 0}}]))[0]["whole"] is None


def test_clients_that_do_not_train_in_a_round_send_nothing_in_it() -> None:
    run = summary("fedavg") | {"rounds": 10, "fraction": 0.4, "bytes": {"up": 6000, "down": 6000}}
    (row,) = rows(by_method([run]))
    assert row["per_round"] == 6000 / (10 * 5 * 0.4)
    assert row["whole"] == 2 * 4 * 9_000_000 * 10 * 5 * 0.4


def test_counts_of_earlier_versions_give_way_to_complete_ones() -> None:
    old = summary("fedavg") | {"parameters": {"total": 1000, "communicated": 2}}
    new = old | {"seed": 1, "parameters": {"total": 1080, "communicated": 82, "received": 82}}
    for runs in ([old, new], [new, old]):
        (row,) = rows(by_method(runs))
        assert (row["communicated"], row["total"]) == (82, 1080)
