"""The size of messages in bytes and in memory, and the errors for messages that are too large."""

import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest
from fakes import shared
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_st

from feddat.app import messages
from feddat.app.arrays import read_array
from feddat.app.grid import InProcessGrid
from feddat.app.limits import COMING, COPIES, check_message
from feddat.config import ConfigError, ServerConfig, WireConfig

ARRAYS = numpy_st.arrays(
    st.sampled_from([np.float32, np.float16, np.int8, np.uint16, np.float64]),
    numpy_st.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
)


@given(ARRAYS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_arrays_are_flowers_byte_for_byte_and_come_back(value):
    ours, flowers = messages.to_array(value), Array(value)
    assert (ours.dtype, ours.shape, ours.stype, ours.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )
    found = read_array(ours)
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)


def test_an_array_in_columns_is_read_as_well():
    value = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    np.testing.assert_array_equal(read_array(Array(value)), value)


@pytest.mark.parametrize(
    ("stype", "change", "error"),
    [
        ("torch", lambda data: data, "serialised as 'torch'"),
        ("numpy.ndarray", lambda data: data[:-1], "23 bytes of values, expected 24"),
        ("numpy.ndarray", lambda data: data + b"\0", "25 bytes of values, expected 24"),
        ("numpy.ndarray", lambda data: b"", "not in NumPy's format 1.0"),
        ("numpy.ndarray", lambda data: data.replace(b"'<f4'", b"'|O' "), "does not describe a plain array of numbers"),
        ("numpy.ndarray", lambda data: data.replace(b"(2, 3)", b"(2,-3)"), "does not describe a plain array"),
        ("numpy.ndarray", lambda data: data.replace(b"\x93NUMPY\x01", b"\x93NUMPY\x02"), "format"),
    ],
)
def test_what_is_no_plain_array_is_refused(stype, change, error):
    good = Array(np.zeros((2, 3), np.float32))
    with pytest.raises((TypeError, ValueError), match=error):
        read_array(Array(good.dtype, good.shape, stype, change(good.data)))


@given(
    st.dictionaries(st.text(min_size=1, max_size=200), st.integers(0, 9000), max_size=4),
    st.dictionaries(st.text(min_size=1, max_size=9), st.floats(allow_nan=False), max_size=4),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_the_computed_size_is_that_of_flowers_protocol_buffers(arrays, metrics):
    InProcessGrid(None, [])
    record = ArrayRecord({key: Array(np.zeros(size, np.int8)) for key, size in arrays.items()})
    content = RecordDict({"shared": record, "metrics": MetricRecord(metrics), "config": ConfigRecord({"run": "é"})})
    size = messages.wire_size(Message(content, 1, "train"))
    assert size == recorddict_to_proto(content).ByteSize()


def test_a_message_goes_when_nobody_has_it_any_more():
    """Messages are in no reference cycle, so that Python frees them at once, without the garbage collector."""
    InProcessGrid(None, [])
    gc.disable()
    try:
        content = messages.instruction_content(messages.to_arrays(shared()), messages.instruction_config(1, 2))
        asked = Message(content, 1, "train")
        ask = messages.read_instruction(asked)
        reply = messages.train_reply(asked, 1, ask.shared, 3, {"loss": 1.0})
        shapes = {key: tuple(value.shape) for key, value in shared().items()}
        messages.read_train_reply(reply, "ann", 1, shapes)
        messages.wire_size(reply)
        seen = [weakref.ref(asked), weakref.ref(reply), weakref.ref(content)]
        del content, asked, reply, ask
        assert [at() for at in seen] == [None] * 3
    finally:
        gc.enable()


SHAPES = {"up": (1024, 1024), "down": (1024, 1024)}  # 8 MiB in fp32
EXTRAS = {"control": (1024, 1024)}


@pytest.mark.parametrize(
    ("extras", "format", "most", "message"),
    [
        ({}, "fp32", 8, None),
        (
            {},
            "fp32",
            7,
            "max_message: 7 MiB, but each message has 8 MiB in fp32; wire.format=bf16 halves that; or",
        ),
        (EXTRAS, "fp32", 11, "has 12 MiB in fp32"),
        ({}, "bf16", 4, None),
        ({}, "bf16", 3, "has 4 MiB in bf16; wire.format=int8 halves that"),
        (EXTRAS, "bf16", 7, "has 8 MiB in bf16"),
        ({}, "int8", 3, None),
        ({}, "int8", 1, r"has 2 MiB in int8; or choose a smaller kind of adapter \(adapter.peft\)"),
    ],
)
def test_the_limit_of_a_message(extras, format, most, message):
    arguments = SHAPES, extras, WireConfig(format=format), ServerConfig(max_message=most), 3, None
    if message is None:
        check_message(*arguments)
    else:
        with pytest.raises(ConfigError, match=message):
            check_message(*arguments)


def test_the_memory_that_messages_take_is_looked_at_first():
    shapes = {"weight": (2**10, 2**18)}  # 1 GiB
    check_message(shapes, {}, WireConfig(), ServerConfig(), 3, (COPIES + COMING) * 2**30)
    check_message(shapes, {}, WireConfig(), ServerConfig(), 3, None)
    with pytest.raises(ConfigError, match=r"messages of 1024 MiB .* up to 7.0 GiB here .*, but 5.0 GiB are free"):
        check_message(shapes, {}, WireConfig(), ServerConfig(), 3, 5 * 2**30)
    with pytest.raises(ConfigError, match=r"up to 16\.0 GiB"):
        check_message(shapes, {}, WireConfig(), ServerConfig(rule="fedmedian"), 3, 10 * 2**30)
    check_message(SHAPES, {}, WireConfig(), ServerConfig(), 3, 2**20)  # too small to be checked


#: Prints the peak memory that each step in the life of a large message adds, as a multiple of the message's arrays.
MEASURE = r"""
import gc, re, sys
from pathlib import Path
import torch
from fakes import Adder, federate, shapes
from flwr.app import Message
from feddat.allocator import return_large_blocks
from feddat.app import messages
from feddat.app.checkpoint import Checkpoints, ServerState
from feddat.app.grid import InProcessGrid
from feddat.app.limits import Limits
from feddat.client.store import PersonalStore

def memory(key):
    return 1024 * int(re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)[1])

def measured(name, function):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = function()
    print(name, (memory("VmHWM") - before) / SIZE)
    return result

return_large_blocks()
torch.set_num_threads(1)
InProcessGrid(None, [])
state = {"embedding": torch.ones(4096, 2048), **{f"layer{i}": torch.ones(1024, 2560) for i in range(4)}}
SIZE = 4 * sum(value.numel() for value in state.values())
folder = Path(sys.argv[1])
ask = messages.instruction_config(1, 1)
asked = measured("out", lambda: Message(messages.instruction_content(messages.to_arrays(state), ask), 1, "train"))
received = measured("received", lambda: messages.read_instruction(asked).shared)
reply = measured("reply", lambda: messages.train_reply(asked, 1, received, 1, {"loss": 1.0}))
measured("size", lambda: messages.wire_size(reply))
measured("read", lambda: messages.read_train_reply(reply, "ann", 1, shapes(state)))
measured("checkpoint", lambda: Checkpoints(folder, "h").save(ServerState(state, round=1)))
measured("store", lambda: PersonalStore(folder, "ann").save(1, state))
del asked, received, reply

def rounds():
    federate([Adder(name) for name in ("ann", "bob", "cid")], ServerState(state), 2, InProcessGrid, limits=Limits())

measured("rounds", rounds)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads what Linux says about memory")
def test_copies_of_a_large_message(tmp_path):
    """Measure a message with 72 MiB of arrays in a process of its own; the bounds leave room for smaller objects."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    took = {name: float(value) for name, value in (line.split() for line in done.stdout.splitlines())}
    assert took.pop("rounds") < COPIES + 3 + 0.5, "three replies are held"
    assert took.pop("out") < 1.1
    assert took.pop("reply") < 1.1
    assert max(took.values()) < 0.3, took
