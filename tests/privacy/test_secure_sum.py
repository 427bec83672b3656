"""The sum of masked updates is exact whenever clients drop out; a server that breaks the protocol gets nothing."""

import json

import numpy as np
import pytest
from summing import PHASES, Attempt

from feddat.privacy.secure_sum.client import SEALED_BYTES, ClientSum
from feddat.privacy.secure_sum.errors import SpoiledError, SumError
from feddat.privacy.secure_sum.shamir import SHARE_BYTES
from feddat.privacy.secure_sum.terms import Rules


def updates(count):
    generator = np.random.default_rng(0)
    return {f"c{i:02}": generator.normal(0, 0.006, 50).astype(np.float32) for i in range(count)}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("clients", "lost"), [(3, 0), (5, 0), (5, 1), (5, 2), (10, 2), (10, 4)])
def test_the_sum_is_exact_whoever_drops_out_in_whichever_phase(phase, clients, lost):
    attempt = Attempt(updates(clients))
    gone = attempt.names[1 : 1 + lost]  # in the middle of the names, so that masks of both signs stay
    total = attempt.run_all({phase: gone})
    in_it = attempt.names if phase in ("agree", "reveal") else [n for n in attempt.names if n not in gone]
    assert list(attempt.server.survivors) == in_it
    assert (total == attempt.plain(in_it)).all()


def test_a_few_drop_out_in_every_phase():
    attempt = Attempt(updates(20), Rules(bits=16))
    gone = {phase: [f"c{3 * i + 1:02}"] for i, phase in enumerate(PHASES)}
    total = attempt.run_all(gone)
    assert (total == attempt.plain([n for n in attempt.names if n not in ("c01", "c04", "c07")])).all()


def test_one_too_few_give_nothing():
    attempt = Attempt(updates(5))
    with pytest.raises(SumError, match="2 clients have seen the same set of survivors, expected at least 3"):
        attempt.run_all({"agree": attempt.names[2:]})
    attempt = Attempt(updates(5))
    with pytest.raises(SumError, match="2 shares do not give it, 3 right ones are needed"):
        attempt.run_all({"reveal": attempt.names[2:]})


@pytest.mark.parametrize("count", [1, 2])
def test_a_sum_of_one_or_two_is_never_begun(count):
    attempt = Attempt(updates(count), Rules(least=1))
    with pytest.raises(SumError, match=f"{count} clients in the sum, expected at least 3"):
        attempt.run_all()


def test_what_the_server_sees_of_a_client_is_uniform_and_new_every_time():
    """Send the same update twice: the numbers and their differences pass a chi-squared test for uniformity."""
    seen = []
    for _ in range(2):
        attempt = Attempt({name: np.zeros(40_000, np.float32) for name in ("ann", "bob", "cid")})
        attempt.begin(attempt.names)
        attempt.share(attempt.names)
        seen.append(np.asarray(attempt.masked("ann")))
    first, second = (np.unpackbits(one, bitorder="little").reshape(-1, 12) @ (1 << np.arange(12)) for one in seen)
    for values in (first, (first - second) % 4096):
        counts = np.bincount(values, minlength=4096)
        chi_squared = ((counts - values.size / 4096) ** 2 / (values.size / 4096)).sum()
        assert abs(chi_squared - 4095) < 6 * np.sqrt(2 * 4095)


def test_a_late_update_stays_hidden():
    """Once its keys are revealed, its masks with other clients can be removed, but its own mask stays."""
    attempt = Attempt(updates(5))
    attempt.begin(attempt.names)
    attempt.share(attempt.names)
    late = attempt.masked("c04")
    here = attempt.names[:4]
    attempt.mask(here)
    attempt.agree(here)
    attempt.reveal(here)
    assert (attempt.server.result() == attempt.plain(here)).all()
    attempt.server.add_masked("c04", late, attempt.clients["c04"].opened)
    with pytest.raises(SumError, match="c04's secret"):  # the others revealed shares of another secret
        attempt.server.result()


def test_a_server_that_tells_two_sets_of_survivors_learns_nothing():
    attempt = Attempt(updates(6))
    attempt.begin(attempt.names)
    attempt.share(attempt.names)
    attempt.mask(attempt.names)
    attempt.agree(attempt.names[:3])
    tags = {}
    for name in attempt.names[3:]:
        tags[name] = attempt.clients[name].agree(attempt.terms.bitmap(attempt.names[1:]), attempt.channels[name])
    # The last three get each other's tags; the first three have agreed to another set.
    for name in attempt.names[3:]:
        others = attempt.terms.bitmap(attempt.names[3:])
        found = b"".join(
            tags[other][16 * (sorted(attempt.names[1:]).index(name) - (other < name)) :][:16]
            for other in attempt.names[3:]
            if other != name
        )
        with pytest.raises(SumError, match="3 clients have seen the same set of survivors, expected at least 4"):
            attempt.clients[name].reveal(others, found, attempt.channels[name])


def test_tags_of_another_set_do_not_count():
    attempt = Attempt(updates(5))
    attempt.begin(attempt.names)
    attempt.share(attempt.names)
    attempt.mask(attempt.names)
    attempt.agree(attempt.names)
    attempt.server._tags["c01"] = bytes(len(attempt.server._tags["c01"]))
    attempt.server._tags["c02"] = bytes(len(attempt.server._tags["c02"]))
    attempt.reveal(["c00"])
    attempt.server._tags["c03"] = bytes(len(attempt.server._tags["c03"]))
    with pytest.raises(SumError, match="2 clients have seen the same set"):
        attempt.reveal(["c04"])


def test_a_client_answers_each_step_once_and_in_order():
    attempt = Attempt(updates(3))
    attempt.begin(attempt.names)
    with pytest.raises(SumError, match="asked to agree, but the last step of this client was: offer"):
        attempt.clients["c00"].agree(b"\x07", attempt.channels["c00"])
    attempt.share(attempt.names)
    with pytest.raises(SumError, match="asked to share"):
        attempt.share(["c00"])
    attempt.mask(attempt.names)
    with pytest.raises(SumError, match="asked to mask"):
        attempt.masked("c00")
    attempt.agree(attempt.names)
    with pytest.raises(SumError, match="asked to agree"):
        attempt.clients["c00"].agree(b"\x07", attempt.channels["c00"])
    attempt.reveal(attempt.names)
    with pytest.raises(SumError, match="asked to reveal"):
        attempt.reveal(["c00"])


def test_a_server_cannot_put_keys_in_another_ones_place():
    """The terms then differ, so the client cannot open what the others have sealed."""
    attempt, other = Attempt(updates(3)), Attempt(updates(3))
    attempt.begin(attempt.names)
    told = attempt.terms
    other.begin(other.names)
    fake = other.terms.offers[2]
    attempt.share(["c01", "c02"])
    lied = type(told)(told.run, told.round, told.size, told.rules, told.received, told.names, (*told.offers[:2], fake))
    attempt.clients["c00"].share(lied, attempt.channels["c00"])
    attempt.server.add_sealed("c00", bytes(2 * SEALED_BYTES))
    with pytest.raises(SumError, match="the shares of c01, c02 cannot be opened"):
        attempt.masked("c00")


def test_its_own_offer_must_be_the_one_it_made():
    attempt, other = Attempt(updates(3)), Attempt(updates(3))
    attempt.begin(attempt.names)
    other.begin(other.names)
    with pytest.raises(SumError, match="an offer as this client's that it has not made"):
        attempt.clients["c00"].share(other.terms, attempt.channels["c00"])


def test_survivors_must_be_enough_and_among_those_who_shared():
    attempt = Attempt(updates(5))
    attempt.begin(attempt.names)
    attempt.share(attempt.names[:4])
    attempt.mask(attempt.names[:4])
    for names, problem in ((["c00", "c01"], "2 clients are in the sum"), (attempt.names, "has others than before")):
        client = ClientSum.from_json(json.loads(json.dumps(attempt.clients["c00"].to_json())))
        with pytest.raises(SumError, match=problem):
            client.agree(attempt.terms.bitmap(names), attempt.channels["c00"])


def test_one_who_reveals_wrong_shares_is_left_out():
    attempt = Attempt(updates(5))
    attempt.begin(attempt.names)
    for phase in ("share", "mask", "agree", "reveal"):
        getattr(attempt, phase)(attempt.names)
    shares = attempt.server._shares
    shares["c00"] = bytes(len(shares["c00"]))
    assert (attempt.server.result() == attempt.plain(attempt.names)).all()
    shares["c01"] = bytes(len(shares["c01"]))
    shares["c02"] = bytes(len(shares["c02"]))
    with pytest.raises(SumError, match="client c00's secret: 5 shares do not give it"):
        attempt.server.result()


def test_a_client_is_blamed_for_its_shares_only_if_no_single_other_one_can_be_the_reason():
    def opened(reveal, wrong):
        attempt = Attempt(updates(5))
        attempt.begin(attempt.names)
        for phase in ("share", "mask", "agree"):
            getattr(attempt, phase)(attempt.names)
        attempt.reveal(reveal)
        for name in wrong:
            attempt.server._shares[name] = wrong[name] * (len(attempt.server._shares[name]) // len(wrong[name]))
        return attempt.server.result

    wrong, none = b"\0" * SHARE_BYTES, b"\xff" * SHARE_BYTES
    for what in (wrong, none):
        opened(["c00", "c01", "c02", "c03"], {"c03": what})()
        with pytest.raises(SumError, match=r"client c00's secret: \d shares do not give it") as error:
            opened(["c00", "c01", "c02"], {"c02": what})()
        assert not isinstance(error.value, SpoiledError)
    with pytest.raises(SpoiledError, match="c00's secret: 1 shares do not give it"):
        opened(["c00", "c01", "c02"], {"c01": none, "c02": none})()


def test_state_survives_the_disk_between_steps():
    attempt = Attempt(updates(4))
    for phase in ("begin", "share", "mask", "agree", "reveal"):
        getattr(attempt, phase)(attempt.names)
        attempt.clients = {
            name: ClientSum.from_json(json.loads(json.dumps(client.to_json())))
            for name, client in attempt.clients.items()
        }
    assert (attempt.server.result() == attempt.plain(attempt.names)).all()


def test_what_is_lost_is_kept_for_the_next_update():
    attempt = Attempt(updates(3))
    attempt.run_all()
    step = attempt.rules.clip / attempt.terms.levels
    clipped = np.clip(attempt.updates["c00"], -attempt.rules.clip, attempt.rules.clip)
    beyond = attempt.updates["c00"] - clipped
    assert np.abs(attempt.left["c00"] - beyond).max() <= step / 2 * (1 + 1e-6)


def test_an_update_of_another_size_or_of_no_numbers_is_refused():
    for update, problem in ((np.zeros(3, np.float32), "3 numbers"), (np.full(50, np.nan, np.float32), "NaN")):
        attempt = Attempt(updates(3))
        attempt.begin(attempt.names)
        attempt.share(attempt.names)
        attempt.updates["c00"] = update
        with pytest.raises(SumError, match=problem):
            attempt.masked("c00")


@pytest.mark.parametrize("step", ["add_sealed", "add_tags", "add_shares"])
def test_a_server_refuses_what_is_too_short(step):
    attempt = Attempt(updates(3))
    attempt.begin(attempt.names)
    attempt.share(attempt.names)
    attempt.mask(attempt.names)
    with pytest.raises(SumError, match="1 bytes of"):
        getattr(attempt.server, step)("c00", b"1")
    with pytest.raises(SumError, match="2 bytes of packed numbers, expected 75"):
        attempt.server.add_masked("c00", np.zeros(2, np.uint8), b"\x07")
