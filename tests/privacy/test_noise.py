"""Random numbers: their cipher, their distribution, and that they never repeat."""

import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from hypothesis import given
from hypothesis import strategies as st

from feddat.privacy.noise import NoiseSource, poisson_sample


def test_numbers_are_the_keystream_of_chacha20():
    key = bytes(range(32))
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor().update(bytes(16))
    words = [int.from_bytes(stream[at : at + 8], "little") >> 11 for at in (0, 8)]
    assert NoiseSource(key).uniform(2).tolist() == [(word + 0.5) / 2**53 for word in words]


def test_two_sources_of_the_system_have_nothing_in_common():
    one, other = NoiseSource.secure().uniform(1000), NoiseSource.secure().uniform(1000)
    assert not set(one.tolist()) & set(other.tolist())


def test_a_seed_gives_the_same_numbers_and_another_name_others():
    def drawn(*names):
        return NoiseSource.seeded(7, *names).normal(4).tolist()

    assert drawn("ann", 1) == drawn("ann", 1)
    assert len({tuple(drawn(*names)) for names in (("ann", 1), ("ann", 2), ("bob", 1), ("ann1",))}) == 4


def test_a_source_never_repeats_itself():
    source = NoiseSource.seeded(0)
    assert len({*source.normal(10).tolist(), *source.normal(10).tolist()}) == 20


def test_normal_numbers_are_normal():
    drawn = NoiseSource.seeded(1).normal(200_001)
    assert drawn.dtype == torch.float64 and drawn.shape == (200_001,)
    # Four standard errors of each moment.
    assert abs(drawn.mean()) < 4 / 200_001**0.5
    assert abs(drawn.square().mean() - 1) < 4 * (2 / 200_001) ** 0.5
    assert abs(drawn.pow(4).mean() - 3) < 4 * (96 / 200_001) ** 0.5
    assert (drawn.abs() < 1.959964).double().mean() == pytest.approx(0.95, abs=0.002)


@given(st.integers(0, 50), st.integers(0, 2**32))
def test_uniform_numbers_lie_between_0_and_1(count, seed):
    drawn = NoiseSource.seeded(seed).uniform(count)
    assert drawn.shape == (count,)
    assert bool(((drawn > 0) & (drawn < 1)).all())


def test_each_record_is_drawn_by_itself():
    source = NoiseSource.seeded(3)
    drawn = [set(poisson_sample(10, 0.3, source).tolist()) for _ in range(4000)]
    assert {len(sample) for sample in drawn} > {0, 1, 2, 3, 4, 5, 6}
    for record in range(10):
        assert sum(record in sample for sample in drawn) / 4000 == pytest.approx(0.3, abs=0.03)
    both = sum({0, 1} <= sample for sample in drawn) / 4000
    assert both == pytest.approx(0.09, abs=0.02)
    assert poisson_sample(5, 1.0, source).tolist() == [0, 1, 2, 3, 4]
