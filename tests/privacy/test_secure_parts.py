"""The parts of a secure sum: secret sharing, fixed-point numbers, masks and terms."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.privacy.secure_sum import fixed_point, masks, shamir
from feddat.privacy.secure_sum.errors import SumError
from feddat.privacy.secure_sum.server import check_offer
from feddat.privacy.secure_sum.terms import Offer, Rules, Terms


def test_the_field_is_one():
    """The modulus is the smallest prime above 2^128, by Miller-Rabin with 14 bases."""

    def is_prime(number):
        odd, twos = number - 1, 0
        while odd % 2 == 0:
            odd, twos = odd // 2, twos + 1
        for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43):
            value = pow(base, odd, number)
            if value in (1, number - 1):
                continue
            for _ in range(twos - 1):
                value = value * value % number
                if value == number - 1:
                    break
            else:
                return False
        return True

    assert is_prime(shamir.PRIME)
    assert not any(is_prime(number) for number in range(2**128, shamir.PRIME))


@settings(max_examples=50)
@given(st.binary(min_size=16, max_size=16), st.data())
def test_enough_shares_give_the_secret_and_others_do_not(secret, data):
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.lists(st.integers(1, 1000), min_size=count, max_size=count, unique=True))
    shares = dict(zip(points, shamir.split(secret, threshold, points), strict=True))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert shamir.combine({point: shares[point] for point in chosen}) == secret
    if threshold > 1:
        try:
            assert shamir.combine({point: shares[point] for point in chosen[:-1]}) != secret
        except shamir.ShareError as error:
            assert "do not belong together" in str(error)


def test_a_share_below_the_threshold_says_nothing():
    """Some line goes through one share and any given secret, so every secret is equally likely."""
    shares = shamir.split(b"sixteen of bytes", 2, [1, 2])
    first = int.from_bytes(shares[0])
    for guess in (0, 1, 2**127):
        second = (guess + 2 * (first - guess)) % shamir.PRIME
        assert shamir.combine({1: shares[0], 2: second.to_bytes(17)}) == guess.to_bytes(16)


def test_a_polynomial_by_hand(monkeypatch):
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda most: 3)
    shares = shamir.split((7).to_bytes(16), 2, [1, 2, 10])  # 3x + 7
    assert [int.from_bytes(share) for share in shares] == [10, 13, 37]
    assert shamir.weights([1, 2]) == [2, shamir.PRIME - 1]


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [(bytes(15), 1, [1]), (bytes(16), 0, [1]), (bytes(16), 3, [1, 2]), (bytes(16), 1, [0]), (bytes(16), 1, [1, 1])],
)
def test_what_cannot_be_shared(secret, threshold, points):
    with pytest.raises(shamir.ShareError):
        shamir.split(secret, threshold, points)


@given(st.integers(8, 32), st.lists(st.integers(0, 2**32 - 1), max_size=70))
def test_packing_keeps_every_number(bits, numbers):
    values = np.array(numbers, np.uint64).astype(fixed_point.ring_dtype(bits)) & ((1 << bits) - 1)
    values = values.astype(fixed_point.ring_dtype(bits))
    packed = fixed_point.pack(values, bits)
    assert packed.size == fixed_point.packed_size(len(values), bits)
    assert (fixed_point.unpack(packed, len(values), bits) == values).all()


def test_packing_more_than_a_block():
    values = np.arange(100_003, dtype=np.uint16) & 0x7FF
    packed = fixed_point.pack(values, 11)
    assert packed.size == (100_003 * 11 + 7) // 8
    assert (fixed_point.unpack(packed, values.size, 11) == values).all()


def test_three_numbers_of_twelve_bits_by_hand():
    packed = fixed_point.pack(np.array([0xABC, 0x123], np.uint16), 12)
    assert packed.tolist() == [0xBC, 0x3A, 0x12]


@given(st.integers(3, 300), st.integers(8, 32))
def test_no_sum_leaves_the_ring(clients, bits):
    most = fixed_point.levels(clients, bits)
    for extreme in (most, -most):
        total = np.array([clients * extreme])
        assert (fixed_point.from_ring(fixed_point.to_ring(total, bits), bits, clients * most) == total).all()


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20), st.integers(3, 2000))
def test_rounding_is_to_the_nearest_level_and_clipping_to_the_last(numbers, most):
    update = np.array(numbers, np.float32)
    found, left = fixed_point.quantise(update, 0.25, most)
    assert np.abs(found).max() <= most
    assert np.allclose(found * (0.25 / most) + left, update, atol=1e-7)
    inside = np.abs(update) <= 0.25
    assert (np.abs(left[inside]) <= 0.25 / most / 2 + 1e-7).all()


def test_the_mean_by_hand():
    found, left = fixed_point.quantise(np.array([0.5, -0.26, 3.0], np.float32), 1.0, 4)
    assert found.tolist() == [2, -1, 4]
    assert np.allclose(left, [0, -0.01, 2])
    assert fixed_point.mean(np.array([6, -3, 0]), 0.25, 3).tolist() == [0.5, -0.25, 0.0]


def test_a_sum_beyond_what_clients_can_have_is_refused():
    with pytest.raises(fixed_point.RingError, match="does not fit"):
        fixed_point.from_ring(np.array([31], np.uint16), 12, 30)


@pytest.mark.parametrize("bits", [12, 20])
def test_a_mask_and_its_opposite_leave_nothing(bits):
    values = fixed_point.to_ring(np.arange(-5, 700_000), bits)
    before = values.copy()
    masks.add_mask(values, bytes(32))
    assert (values != before).mean() > 0.99
    masks.add_mask(values, bytes(32), -1)
    assert (values == before).all()


def test_a_mask_is_the_published_stream():
    """RFC 8439, A.1, test vector 1: the keystream of a key of zeros."""
    values = np.zeros(4, np.uint16)
    masks.add_mask(values, bytes(32))
    assert values.tobytes().hex() == "76b8e0ada0f13d90"


def test_two_clients_agree_on_a_key_that_a_third_does_not_have():
    ann, bob, eve = (X25519PrivateKey.generate() for _ in range(3))
    shared = masks.agree(ann, masks.public_bytes(bob))
    assert shared == masks.agree(bob, masks.public_bytes(ann)) != masks.agree(eve, masks.public_bytes(bob))
    keys = {masks.derive(shared, transcript, purpose) for transcript in (b"1", b"2") for purpose in ("a", "b")}
    assert len(keys) == 4


def test_a_key_that_gives_everybody_the_same_secret_is_refused():
    good = masks.public_bytes(X25519PrivateKey.generate())
    check_offer(Offer(good, good, bytes(16)))
    with pytest.raises(SumError, match="a public key is invalid"):
        check_offer(Offer(good, bytes(32), bytes(16)))
    with pytest.raises(SumError, match="expected"):
        Offer(good, b"", bytes(16))


def offers(count):
    return tuple(Offer(bytes([1, i] * 16), bytes([2, i] * 16), bytes([3, i] * 8)) for i in range(count))


def test_terms_differ_wherever_anything_in_them_does():
    names = ("ann", "bob", "cid", "dan")
    terms = Terms("run", 1, 10, Rules(), bytes(32), names, offers(4))
    others = [
        Terms("other", 1, 10, Rules(), bytes(32), names, offers(4)),
        Terms("run", 2, 10, Rules(), bytes(32), names, offers(4)),
        Terms("run", 1, 11, Rules(), bytes(32), names, offers(4)),
        Terms("run", 1, 10, Rules(clip=1.0), bytes(32), names, offers(4)),
        Terms("run", 1, 10, Rules(settings="other"), bytes(32), names, offers(4)),
        Terms("run", 1, 10, Rules(), bytes(31) + b"\x01", names, offers(4)),
        Terms("run", 1, 10, Rules(), bytes(32), ("ann", "bob", "cid", "eve"), offers(4)),
        Terms("run", 1, 10, Rules(), bytes(32), names, offers(4)[::-1]),
    ]
    assert len({one.transcript for one in (terms, *others)}) == 1 + len(others)
    assert Terms.from_json(terms.to_json()).transcript == terms.transcript
    assert terms.named(terms.bitmap(["bob", "dan"])) == ("bob", "dan")
    for wrong in (b"", b"\x1f", b"\x01\x00"):
        with pytest.raises(SumError, match="set of clients"):
            terms.named(wrong)


@pytest.mark.parametrize(("clients", "share", "enough"), [(3, 0.5, 3), (5, 0.5, 3), (20, 0.5, 11), (5, 0.6, 4)])
def test_more_than_the_share_are_needed(clients, share, enough):
    names = tuple(f"c{i:02}" for i in range(clients))
    assert Terms("run", 1, 10, Rules(share), bytes(32), names, offers(clients)).enough == enough


@pytest.mark.parametrize(
    ("rules", "names", "problem"),
    [
        (Rules(), ("ann", "bob"), "2 clients"),
        (Rules(least=4), ("ann", "bob", "cid"), "expected at least 4"),
        (Rules(threshold=0.4), ("ann", "bob", "cid"), "threshold of 0.4"),
        (Rules(), ("bob", "ann", "cid"), "not sorted"),
        (Rules(), ("ann", "ann", "bob"), "not sorted"),
        (Rules(bits=8), tuple(f"c{i:02}" for i in range(60)), "8 bits are too few for a sum of 60 clients"),
        (Rules(bits=32), tuple(f"c{i:05}" for i in range(10_001)), "10001 clients in the sum, expected at most 10000"),
    ],
)
def test_terms_that_no_honest_server_makes(rules, names, problem):
    with pytest.raises(SumError, match=problem):
        Terms("run", 1, 10, rules, bytes(32), names, offers(min(len(names), 250)))


def test_no_two_clients_offer_the_same_key():
    same = (*offers(3)[:2], offers(3)[0])
    with pytest.raises(SumError, match="the same key"):
        Terms("run", 1, 10, Rules(), bytes(32), ("ann", "bob", "cid"), same)
