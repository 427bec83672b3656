"""When passes are recorded and replayed. Here a stand-in for the GPU's recorder runs the passes as they are.

`test_cuda.py` checks on a GPU that recordings give the numbers of plain passes.
"""

import pytest
import torch

from feddat.adapters.build import build_adapters
from feddat.client import captured
from feddat.client.captured import TOKENS, CapturedRoutes
from feddat.models.stages import MASK, STATES
from feddat.models.vilt.backbone import ViltBackbone


@pytest.fixture
def recorder(monkeypatch, model_folder):
    """Return recordings of a tiny ViLT; their list ``made`` holds the inputs of each recorded pass."""
    backbone = ViltBackbone(model_folder)
    adapters = build_adapters(backbone.model, peft="bottleneck", reduction=4)
    backbone.stage(adapters.changed)
    made = []

    def record(function, samples, pool):
        function(*samples)
        made.append(samples)
        return function

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: object())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8, 10))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 0)
    found = CapturedRoutes(backbone, adapters, "fp32")
    found.made, found.backbone, found.adapters = made, backbone, adapters
    return found


def states(recorder, rows=2, tokens=7, padded=0):
    width = recorder.backbone.feature_dim
    inputs = {STATES: torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(tokens))}
    if padded:
        inputs[MASK] = (torch.arange(tokens) < tokens - padded).expand(rows, 1, 1, -1)
    return inputs


def ask(recorder, inputs, route="global", times=1):
    for _ in range(times):
        recorder.begin()
        recorder.adapters.route(route)
        found = recorder.features(route, inputs)
    return found


def test_a_shape_is_recorded_when_it_comes_for_the_third_time(recorder):
    inputs = states(recorder)
    assert ask(recorder, inputs, times=2) is None
    assert not recorder.made
    replayed = ask(recorder, inputs, times=3)
    torch.testing.assert_close(replayed, recorder.backbone.features(inputs))
    assert len(recorder.made) == 1
    assert ask(recorder, states(recorder, rows=3)) is None


def test_a_replayed_pass_gives_the_adapters_their_gradients(recorder):
    inputs = states(recorder)
    for route, trained in (("global", "global"), ("dat", "local"), ("sum", "local"), ("sum", "global")):
        features = ask(recorder, inputs, route, times=4)
        features.square().sum().backward()
        found = [p.grad.clone() for p in recorder.adapters.parameters(trained)]
        recorder.adapters.model.zero_grad()
        recorder.backbone.features(inputs).square().sum().backward()
        for parameter, gradient in zip(recorder.adapters.parameters(trained), found, strict=True):
            torch.testing.assert_close(parameter.grad, gradient)
        recorder.adapters.model.zero_grad()


def test_recordings_are_made_with_other_parameters_over_the_same_memory(recorder):
    ask(recorder, states(recorder), times=3)
    own = recorder.adapters.parameters("global")
    recorded = recorder.made[0][1:]
    assert [a.data_ptr() for a in recorded] == [a.data_ptr() for a in own]
    assert not {id(a) for a in recorded} & {id(a) for a in own}
    assert {id(p) for p in recorder.adapters.parameters("global")} <= {
        id(p) for p in recorder.backbone.model.parameters()
    }


def test_a_padded_batch_is_padded_further_for_the_same_features(recorder):
    for tokens in (18, 20, 31, 32):
        inputs = states(recorder, tokens=tokens, padded=3)
        found = ask(recorder, inputs)
    assert len(recorder.made) == 1 and recorder.made[0][0].shape[1] == 2 * TOKENS
    torch.testing.assert_close(found, recorder.backbone.features(inputs))


def test_a_second_pass_of_one_batch_is_run_as_it_is(recorder):
    inputs = states(recorder)
    assert ask(recorder, inputs, times=3) is not None
    assert recorder.features("global", inputs) is None
    recorder.begin()
    assert recorder.features("global", inputs) is not None
    with torch.no_grad():  # this has its own recording, and no backward pass follows
        for _ in range(2):
            assert recorder.features("global", inputs) is None
        for _ in range(2):
            assert recorder.features("global", inputs) is not None


def test_what_was_replayed_outlives_the_next_replay(recorder, monkeypatch):
    """FedDPA depends on this: it keeps the features of its reference examples from batch to batch."""

    def record(function, samples, pool):
        with torch.no_grad():
            place = function(*samples)  # a graph writes its output to one place
        return lambda *given: place.copy_(function(*given))

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", record)
    first, second = states(recorder), states(recorder)
    second[STATES] = second[STATES].flip(1) + 1
    with torch.no_grad():
        kept = ask(recorder, first, times=3)
        before = kept.clone()
        other = ask(recorder, second)
    assert torch.equal(kept, before) and not torch.equal(kept, other)


def test_what_cannot_be_recorded_is_run_as_it_is(recorder, monkeypatch, caplog):
    inputs = states(recorder)
    assert ask(recorder, {"pixel_values": torch.zeros(1)}, times=5) is None
    assert ask(recorder, {}, times=5) is None
    assert ask(recorder, inputs, {"global": 0.3}, times=5) is None

    def refuse(*args, **kwargs):
        raise RuntimeError("no such operation\nmore")

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", refuse)
    assert ask(recorder, inputs, times=5) is None
    assert [record.getMessage() for record in caplog.records] == [
        "route global cannot be recorded as a CUDA graph and runs without one: no such operation"
    ]


def test_nothing_is_recorded_with_dropout_or_without_memory(recorder, monkeypatch):
    dropout = next(m for m in recorder.backbone.model.modules() if isinstance(m, torch.nn.Dropout))
    recorder.backbone.model.train()
    monkeypatch.setattr(dropout, "p", 0.1)
    assert ask(recorder, states(recorder), times=4) is None
    recorder.backbone.model.eval()
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2, 10))
    assert ask(recorder, states(recorder), times=4) is None
    monkeypatch.setattr(captured, "_LIMIT", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (8, 10))
    assert ask(recorder, states(recorder, tokens=9), times=4) is None
    assert not recorder.made
