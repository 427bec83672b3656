import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feddat.client.batches import plan_batches

sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(0, 20), min_size=1)


@settings(max_examples=50)
@given(sizes, st.integers(1, 3), st.integers(1, 7))
def test_every_example_once_per_epoch(sizes, epochs, batch_size):
    plan = plan_batches(sizes, epochs, batch_size, seed=0, turn=1)
    for name, size in sizes.items():
        drawn = [i for member, batch in plan if member == name for i in batch.tolist()]
        assert sorted(drawn) == sorted(list(range(size)) * epochs)
    assert all(0 < len(batch) <= batch_size for _, batch in plan)


def test_the_last_smaller_batch_is_kept():
    assert [len(batch) for _, batch in plan_batches({"a": 7}, 1, 3, seed=0, turn=1)] == [3, 3, 1]


def flat(plan):
    return torch.cat([batch for _, batch in plan]).tolist()


def test_order_depends_on_seed_name_turn_and_epoch():
    one = flat(plan_batches({"a": 30}, 1, 4, seed=0, turn=1))
    assert one == flat(plan_batches({"a": 30}, 1, 4, seed=0, turn=1))
    others = [
        flat(plan_batches({"a": 30}, 1, 4, seed=1, turn=1)),
        flat(plan_batches({"b": 30}, 1, 4, seed=0, turn=1)),
        flat(plan_batches({"a": 30}, 1, 4, seed=0, turn=2)),
        flat(plan_batches({"a": 30}, 2, 4, seed=0, turn=1))[30:],
    ]
    assert one not in others


def test_members_batches_are_mixed_and_do_not_change_a_members_own_order():
    both = plan_batches({"a": 12, "b": 12}, 1, 2, seed=0, turn=1)
    names = [name for name, _ in both]
    assert sorted(names) == ["a"] * 6 + ["b"] * 6
    assert names not in (["a"] * 6 + ["b"] * 6, ["b"] * 6 + ["a"] * 6)
    alone = {tuple(batch.tolist()) for _, batch in plan_batches({"a": 12}, 1, 2, seed=0, turn=1)}
    assert {tuple(batch.tolist()) for name, batch in both if name == "a"} == alone


@settings(max_examples=50)
@given(sizes, st.integers(1, 9), st.integers(1, 7))
def test_so_many_steps_of_every_member_that_has_examples(sizes, steps, batch_size):
    plan = plan_batches(sizes, 1, batch_size, seed=0, turn=1, steps=steps)
    for name, size in sizes.items():
        own = [batch.tolist() for member, batch in plan if member == name]
        assert len(own) == (steps if size else 0)
        drawn = [i for batch in own for i in batch]
        counts = [drawn.count(i) for i in range(size)]
        assert max(counts, default=0) - min(counts, default=0) <= 1


def test_a_client_takes_the_steps_it_is_told():
    whole = plan_batches({"a": 7}, 1, 3, seed=0, turn=1)
    cut = plan_batches({"a": 7}, 5, 3, seed=0, turn=1, steps=2)
    assert [batch.tolist() for _, batch in cut] == [batch.tolist() for _, batch in whole[:2]]
