"""Wire formats: how far a number can be off, that nothing is lost over several messages, and what is refused."""

import numpy as np
import pytest
import torch
from fakes import Adder, federate, shapes, shared
from flwr.app import Message
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from feddat.app import messages
from feddat.app.checkpoint import Checkpoints, ServerState
from feddat.app.grid import InProcessGrid
from feddat.app.messages import ReplyError
from feddat.app.wire import SCALES, WireError, layout, pack, settle, unpack
from feddat.client.store import PersonalStore
from feddat.config import WireConfig

FORMATS = ["fp32", "fp16", "bf16", "int8"]
INT8 = WireConfig(format="int8")

#: Shapes of no numbers, of one number, and of one or several dimensions.
SHAPES = nps.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


def arrays(limit=2.0**120):
    numbers = st.floats(-limit, limit, width=32)
    return nps.arrays(np.float32, SHAPES, elements=numbers).map(lambda array: torch.from_numpy(array.copy()))


def states(limit=2.0**120):
    return st.dictionaries(st.sampled_from(["a.weight", "b.bias", "c"]), arrays(limit), max_size=3)


def there_and_back(state, config, **kwargs):
    packed, _ = pack(state, config, **kwargs)
    assert {key: (value.dtype, value.shape) for key, value in packed.items()} == layout(shapes(state), config)
    return {k: torch.from_numpy(v) for k, v in unpack(packed, config, kwargs.get("base")).items()}


def rows(tensor):
    count = tensor.shape[0] if tensor.ndim > 1 else 1
    return list(tensor.reshape(count, tensor.numel() // count if count else 0))


@given(states())
def test_fp32_is_the_number(state):
    found = there_and_back(state, WireConfig())
    assert list(found) == list(state)
    assert all(torch.equal(found[key], state[key]) for key in state)


@given(states(limit=65504))
def test_fp16_is_off_by_a_2048th_at_most(state):
    for key, found in there_and_back(state, WireConfig(format="fp16")).items():
        assert found.shape == state[key].shape
        assert ((found - state[key]).abs() <= torch.clamp(state[key].abs() * 2.0**-11, min=2.0**-25)).all()


@given(states())
def test_bf16_is_off_by_a_256th_at_most(state):
    for key, found in there_and_back(state, WireConfig(format="bf16")).items():
        assert found.shape == state[key].shape
        # A bfloat16 below the smallest normal number has fewer bits.
        assert ((found - state[key]).abs() <= torch.clamp(state[key].abs() * 2.0**-8, min=2.0**-134)).all()


@given(states())
def test_int8_is_off_by_half_a_scale_at_most(state):
    packed, left = pack(state, INT8)
    scales = iter(packed.get(SCALES, np.zeros(0)).tolist())
    for key, found in unpack(packed, INT8).items():
        assert found.shape == state[key].shape
        for true, got, rest in zip(rows(state[key]), rows(torch.from_numpy(found)), rows(left[key]), strict=True):
            scale = next(scales)
            largest = max(map(abs, true.tolist()), default=0.0)
            assert largest / 127 <= scale <= max(largest / 127 * (1 + 2.0**-15), 2.0**-110 * (largest > 0))
            assert ((got - true).abs() <= scale / 2 * (1 + 1e-6)).all()
            assert torch.allclose(got + rest, true, rtol=1e-6, atol=0)


@pytest.mark.parametrize("format", FORMATS)
@given(state=states(limit=60000))
def test_what_has_travelled_once_travels_unchanged(format, state):
    config = WireConfig(format=format)
    once = there_and_back(state, config)
    again = there_and_back(once, config)
    assert all(torch.equal(once[key], again[key]) for key in state)


def test_int8_by_hand():
    state = {"w": torch.tensor([[127.0, 1.4, -63.6], [0.0, 0.0, 0.0]]), "b": torch.tensor([-254.0, 3.2])}
    packed, left = pack(state, INT8)
    assert packed["w"].tolist() == [[127, 1, -64], [0, 0, 0]]
    assert packed["b"].tolist() == [-127, 2]
    assert packed[SCALES].tolist() == [1.0, 0.0, 2.0]
    assert torch.allclose(left["w"], torch.tensor([[0.0, 0.4, 0.4], [0.0, 0.0, 0.0]]), atol=1e-6)
    assert torch.allclose(left["b"], torch.tensor([0.0, -0.8]), atol=1e-6)


@given(st.lists(nps.arrays(np.float32, (2, 3), elements=st.floats(-1, 1, width=32)), min_size=1, max_size=12))
def test_with_error_feedback_the_sums_stay_within_one_quantum(values):
    residual, true, received, largest = {}, np.zeros((2, 3)), np.zeros((2, 3)), 0.0
    for value in values:
        packed, residual = pack({"w": torch.from_numpy(value)}, INT8, residual=residual)
        true += value
        received += unpack(packed, INT8)["w"]
        largest = max(largest, float(packed[SCALES].max()))
    assert (np.abs(true - received) <= largest / 2 + 1e-5).all()


def test_without_error_feedback_they_would_not():
    """0.4 of a quantum beside a number of 127 quanta is lost every time, unless the residual is kept."""
    state, residual, kept, dropped = {"w": torch.tensor([127.0, 0.4])}, {}, 0.0, 0.0
    for _ in range(10):
        packed, residual = pack(state, INT8, residual=residual)
        kept += unpack(packed, INT8)["w"][1]
        dropped += unpack(pack(state, INT8)[0], INT8)["w"][1]
    assert dropped == 0.0
    assert kept == pytest.approx(4.0, abs=0.5)


@pytest.mark.parametrize("format", FORMATS)
def test_a_difference_is_finer_than_the_whole(format):
    base = {"w": torch.linspace(-1, 1, 50)}
    state = {"w": base["w"] + 1e-3 * torch.cos(torch.arange(50.0))}
    whole = there_and_back(state, WireConfig(format=format))["w"] - state["w"]
    difference = there_and_back(state, WireConfig(format=format, delta=True), base=base)["w"] - state["w"]
    assert difference.abs().max() < 1e-5
    assert format == "fp32" or difference.abs().max() < whole.abs().max() / 10


@pytest.mark.parametrize(
    ("format", "value", "reason"),
    [
        ("fp16", 1e6, "array w has a value of magnitude 1e.06, beyond the largest of fp16, 65504"),
        ("bf16", 3.4e38, "magnitude 3.4e.38, beyond the largest of bf16"),
        ("int8", float(np.finfo(np.float32).max), "magnitude 3.4.*e.38, too large for a scale of int8"),
        *((format, value, "array w has NaN or infinite") for format in FORMATS[1:] for value in (np.nan, -np.inf)),
    ],
)
def test_what_a_format_cannot_carry_is_refused(format, value, reason):
    with pytest.raises(WireError, match=reason):
        pack({"w": torch.tensor([1.0, value])}, WireConfig(format=format))


# --- in messages ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked() -> Message:
    InProcessGrid(None, [])  # Flower creates messages only in a process with an identity
    return Message(
        messages.instruction_content(messages.to_arrays(shared(0.5)), messages.instruction_config(3, 5)), 1, "train"
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("delta", [False, True])
def test_instruction_and_reply_come_through_flowers_wire_format(asked, format, delta):
    config, sent = WireConfig(format=format, delta=delta), shared(0.5)
    extras = {"c": torch.tensor([0.1, 0.2])}
    asked.content = messages.instruction_content(
        messages.to_arrays(sent), messages.instruction_config(3, 5), extras, config
    )
    asked.content = recorddict_from_proto(recorddict_to_proto(asked.content))
    ask = messages.read_instruction(asked)
    assert ask.wire == config
    assert all(torch.allclose(ask.shared[key], sent[key], rtol=2.0**-8) for key in sent)
    assert torch.equal(ask.extras["c"], extras["c"])

    trained = {key: value + 0.25 for key, value in ask.shared.items()}
    packed, _ = pack(trained, config, ask.shared if delta else None)
    answer = messages.train_reply(asked, 3, packed, 11, {"loss": 0.25}, extras)
    answer.content = recorddict_from_proto(recorddict_to_proto(answer.content))
    reply = messages.read_train_reply(answer, "ann", 3, shapes(shared()), {"c": (2,)}, config, ask.shared)
    assert list(reply.shared) == list(sent)
    assert all(np.allclose(reply.shared[key], trained[key], rtol=2.0**-7) for key in sent)
    assert np.array_equal(reply.extras["c"], extras["c"])


def reply_with(asked, format, **changes):
    config = WireConfig(format=format)
    packed, _ = pack(shared(1.0), config)
    packed |= changes
    reply = messages.train_reply(asked, 3, {key: value for key, value in packed.items() if value is not None}, 1, {})
    return messages.read_train_reply(reply, "ann", 3, shapes(shared()), None, config)


@pytest.mark.parametrize(
    ("format", "changes", "reason"),
    [
        ("int8", {"up.bias": np.zeros(4, np.float32)}, r"array up.bias is float32\(4,\), expected int8\(4,\)"),
        ("int8", {SCALES: None}, "missing wire/scales"),
        ("int8", {SCALES: np.zeros(2, np.float32)}, r"array wire/scales is float32\(2,\), expected float32\(3,\)"),
        ("int8", {SCALES: np.full(3, np.inf, np.float32)}, "array down.weight has NaN or infinite values"),
        ("bf16", {"up.bias": np.full(4, 0x7F80, np.uint16)}, "array up.bias has NaN or infinite values"),
        ("fp16", {"up.bias": np.full(4, np.nan, np.float16)}, "array up.bias has NaN or infinite values"),
        ("fp16", {"up.bias": np.zeros(4, np.uint16)}, r"array up.bias is uint16\(4,\), expected float16"),
        ("fp32", {SCALES: np.zeros(3, np.float32)}, "unexpected wire/scales"),
    ],
)
def test_a_reply_packed_wrongly_is_refused(asked, format, changes, reason):
    with pytest.raises(ReplyError, match=reason) as caught:
        reply_with(asked, format, **changes)
    assert not caught.value.failed


# --- over rounds ------------------------------------------------------------------------------------------------------


def clients(root, *numbers):
    made = [Adder(f"c{index}", number) for index, number in enumerate(numbers)]
    for client in made:
        client.store = PersonalStore(root, client.name)
    return made


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_rounds_come_to_the_same_adapter(tmp_path, format, delta):
    state, config = ServerState(shared(0.5)), WireConfig(format=format, delta=delta)
    federate(clients(tmp_path, 0.1, 0.3), state, rounds=5, wire=config)
    assert all(torch.allclose(value, torch.tensor(1.5), rtol=2.0**-7) for value in state.shared.values())


def test_bytes_shrink_with_the_format():
    sizes = {}
    for format in FORMATS[:3]:
        state = ServerState({"w": torch.zeros(100, 100)})
        federate([Adder("ann")], state, wire=WireConfig(format=format))
        sizes[format] = state.bytes["train"]
    for way in ("up", "down"):
        assert sizes["fp16"][way] == pytest.approx(sizes["fp32"][way] - 20_000, abs=60)
        assert sizes["bf16"][way] == pytest.approx(sizes["fp16"][way], abs=10)


def test_the_default_is_told_too_and_changes_no_array(asked):
    content = messages.instruction_content(messages.to_arrays(shared(0.5)), messages.instruction_config(3, 5))
    config = content.config_records["config"]
    assert (config["wire.format"], config["wire.delta"]) == ("fp32", False)
    assert {array.dtype for array in content.array_records["shared"].values()} == {"float32"}


def test_clients_train_and_answer_from_the_very_same_global(tmp_path):
    state = ServerState({"w": torch.linspace(-1, 1, 12).reshape(3, 4)})
    grid, _, _ = federate(clients(tmp_path, 0.013, 0.034), state, rounds=3, wire=INT8)
    down = [m for m in grid.down if m.metadata.message_type != "query"]
    seen = {}
    for message in down:
        ask = messages.read_instruction(message)
        held = ask.round - 1 if message.metadata.message_type == "train" else ask.round
        seen.setdefault(held, []).append(ask.shared["w"])
    assert sorted(seen) == [0, 1, 2, 3]
    assert all(torch.equal(each, group[0]) for group in seen.values() for each in group)
    assert torch.equal(seen[3][0], state.shared["w"])


def test_an_overflow_at_a_client_is_its_failure_and_at_the_server_leaves_the_adapter_as_it_was(tmp_path, caplog):
    fp16 = WireConfig(format="fp16")
    state = ServerState(shared())
    _, _, events = federate(clients(tmp_path, 1.0, 1e6), state, wire=fp16)
    assert state.failed == 1
    assert [e["reason"] for e in events if e["event"] == "failed"] == [
        "WireError: array down.weight has a value of magnitude 1e+06, beyond the largest of fp16, 65504"
    ]
    state = ServerState(shared(6e4))
    federate(clients(tmp_path, 6e4), state, wire=WireConfig(format="fp16", delta=True))
    assert all(torch.equal(value, torch.full_like(value, float(np.float16(6e4)))) for value in state.shared.values())
    assert state.refused == 1
    assert "round 1: the global adapter stays as it was: array down.weight has a value of magnitude 1" in caplog.text


def test_the_servers_residual_is_in_its_checkpoint(tmp_path):
    state = ServerState({"w": torch.tensor([127.0, 0.4])})
    checkpoints = Checkpoints(tmp_path / "checkpoints", "hash")
    federate(clients(tmp_path, 0.0), state, rounds=1, wire=INT8, save=checkpoints.save)
    found = checkpoints.latest()
    assert list(found.shared) == ["w"]
    assert torch.equal(found.residual["w"], state.residual["w"])
    # Rounding lost the 0.4 at the start, so it is in the residual and not in the adapter.
    assert found.shared["w"].tolist() == [127.0, 0.0]
    assert float(found.residual["w"][1]) == pytest.approx(0.4)


def test_settling_makes_up_for_what_was_lost():
    state, residual, seen = {"w": torch.tensor([127.0, 0.4])}, {}, []
    for _ in range(5):
        settled, residual = settle(state, INT8, residual)
        seen.append(float(settled["w"][1]))
    assert seen == [0.0, 1.0, 0.0, 1.0, 0.0]
