"""With ``privacy.secret_seeds``, nobody else can repeat what a client draws; the client itself always can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_clients import same, vqa_client

from feddat.algorithms.base import MAIN_HEAD
from feddat.client.store import KEY_FILE, PersonalStore, StoreError
from feddat.seals import Seal

MUSEUM = vqa_client("museum")
SECRET = {"privacy.secret_seeds": True, "head.lr": 0.1}


def begun(participant, shared):
    """Return a client's head and local adapter as its first round finds them, and what the round sends."""
    participant._restore(shared, 1, None, training=True)
    drawn = [p.detach().clone() for p in participant.members["museum"].heads[MAIN_HEAD].parameters()]
    local = [p.detach().clone() for p in participant.adapters.parameters("local")]
    return drawn, local, participant.fit(shared, 1).shared


@pytest.mark.parametrize("secret", [False, True])
def test_head_local_adapter_and_training_differ_only_if_seeds_are_secret(process, secret):
    found = []
    for _ in range(2):
        p = process("feddat", **{**SECRET, "privacy.secret_seeds": secret})
        found.append(begun(p.participant(MUSEUM), p.initial()))
    one, other = found
    assert same(one[0], other[0]) != secret  # the head
    assert same(one[1], other[1]) != secret  # the local adapter
    assert same(one[2], other[2]) != secret  # what is sent


def test_what_training_draws_follows_the_secret_seed_too(process):
    """The head does not train, and there is no local adapter: only batches (and dropout) are left to differ."""
    sent = []
    for secret in (False, True):
        p = process("fedavg", **{"head.lr": 0, "privacy.secret_seeds": secret})
        participant = p.participant(MUSEUM)
        head = participant.members["museum"]
        head._seed = lambda: 0
        sent.append(participant.fit(p.initial(), 1).shared)
    assert not same(*sent)


def test_the_same_key_repeats_the_training_in_another_process(process):
    first = process("feddat", **SECRET)
    shared = first.initial()
    sent = first.participant(MUSEUM).fit(shared, 1).shared
    second = process("feddat", **SECRET)
    place = second.root / "museum"
    place.mkdir(parents=True)
    (place / KEY_FILE).write_bytes((first.root / "museum" / KEY_FILE).read_bytes())
    assert same(second.participant(MUSEUM).fit(shared, 1).shared, sent)


def test_the_server_starts_all_clients_from_the_public_seed(process):
    assert same(process("feddat", **SECRET).initial(), process("feddat").initial())


def test_loading_a_client_writes_nothing(process):
    p = process("feddat", **SECRET)
    participant = p.participant(MUSEUM)
    assert not p.root.exists()
    participant.fit(p.initial(), 1)
    assert (p.root / "museum" / KEY_FILE).is_file()


def test_a_missing_key_is_an_error_and_no_new_seed(process):
    p = process("feddat", **SECRET)
    participant, shared = p.participant(MUSEUM), p.initial()
    participant.fit(shared, 1)
    (p.root / "museum" / KEY_FILE).unlink()
    with pytest.raises(StoreError, match=r"client museum: privacy\.secret_seeds: .*seal\.key is missing"):
        participant.fit(shared, 2)
    assert not (p.root / "museum" / KEY_FILE).exists()


def test_a_file_that_is_no_key_is_an_error(tmp_path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann" / KEY_FILE).write_bytes(b"short")
    with pytest.raises(StoreError, match=r"client ann: privacy\.secret_seeds: .*is not a key"):
        PersonalStore(tmp_path, "ann").seed(0)


names = st.lists(st.one_of(st.text(max_size=8), st.integers(0, 2**63)), max_size=3)


@given(one=names, other=names)
def test_seeds_depend_on_every_name_and_on_the_key(tmp_path_factory, one, other):
    folder = tmp_path_factory.mktemp("keys")
    seal = Seal(folder / "a")
    assert (seal.seed(*one) == seal.seed(*other)) == (one == other)
    assert seal.seed(*one) == Seal(folder / "a").seed(*one) != Seal(folder / "b").seed(*one)
    assert seal.seed(*one).bit_length() > 128  # far more than a search could try
