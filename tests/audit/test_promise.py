"""What a stated ε says about canaries, by unit and attacker."""

import pytest

from feddat.audit.promise import contradicted, sentence, stated
from feddat.config import load_config
from feddat.privacy.accounting import Steps, epsilon_of


def promise(**values):
    values = {"rounds": 3, "share_metrics": "none"} | {key.replace("__", "."): value for key, value in values.items()}
    return stated(load_config(None, None, **values))


def test_a_run_without_privacy_states_nothing():
    found = promise()
    assert set(found.values()) == {None} and sentence(found) == ""


def test_of_records_the_stated_epsilon_is_that_of_a_canary():
    found = promise(privacy__epsilon=2.0, privacy__scope="all")
    assert (found["unit"], found["record"], found["views"]) == ("record", 2.0, ["server", "sum", "model"])
    assert sentence(found) == "ε = 2 for each record"
    assert promise(privacy__epsilon=2.0, privacy__scope="shared")["views"] == ["server", "sum"]


@pytest.mark.parametrize("sums", [False, True])
def test_of_clients_a_record_costs_what_twice_the_norm_costs(sums):
    given = {"privacy__epsilon": 2.0, "privacy__unit": "client", "privacy__noise_multiplier": 6.0}
    found = promise(**given, secure_aggregation__enabled=sums)
    # Three rounds in which one client's part moves the sum by 2C: noise of 6C is 3 times that.
    expected = epsilon_of([Steps(1.0, 3.0, 1, 3, sums)], 1e-5)
    assert found["record"] == pytest.approx(expected)
    assert found["record"] > epsilon_of([Steps(1.0, 6.0, 1, 3, sums)], 1e-5)
    assert found["views"] == ["sum"], "the server adds the noise, or sees only sums"
    assert f"ε = 2 for each client as a whole, so ε = {expected:.3g} for each of its records" == sentence(found)


def test_canaries_contradict_only_what_is_promised_to_their_view():
    views = {"server": {"epsilon": 3.0}, "sum": {"epsilon": 1.5}, "model": {"epsilon": 9.0}}
    result = {"canaries": {"views": views}, "stated": promise(privacy__epsilon=2.0, privacy__scope="shared")}
    assert contradicted(result) == ["server"]
    result["stated"] = result["stated"] | {"unit": "client", "record": 1.0, "views": ["sum"]}
    assert contradicted(result) == ["sum"]
    assert contradicted({"stated": result["stated"]}) == []
