"""Checkpointed layers give the same gradients as plain ones, whatever route is open during backward."""

import pytest
import torch

from feddat.adapters.build import build_adapters
from feddat.adapters.checkpointing import checkpoint_layers
from feddat.algorithms import ALGORITHMS
from feddat.client.store import PersonalStore
from feddat.client.trainer import Participant
from feddat.config import load_config
from feddat.example import ClientData, Example, View
from feddat.models.catalog import load_backbone
from feddat.models.tiny import make_tiny
from feddat.models.tiny.settings import SIZES

CPU = torch.device("cpu")
FAMILIES = ("vilt", "smolvlm", "qwen2_5_vl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: make_tiny(family, root / family, SIZES["unit"]) for family in FAMILIES}


def picture(seed):
    return torch.randint(0, 256, (40, 40, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8).numpy()


def data():
    answers = ("red", "blue", "two")
    examples = tuple(
        Example(str(n), (picture(n),), "what is the color?", answers={answers[n % 3]: 1.0, answers[n % 2]: 0.3})
        for n in range(6)
    )
    return ClientData("one", "vqa", examples[:4], (), examples[4:], answers=answers)


def settings(folder, **values):
    return load_config(
        **{"model": str(folder), "method": "feddat", "adapter.peft": "bottleneck", "train.batch_size": 2}
        | {"train.lr": 0.01} | values
    )  # fmt: skip


def trained(folder, tmp_path, checkpointed, **values):
    """Train one round; return the shared and personal states, and how often decoder attention was computed."""
    config = settings(folder, **values)
    backbone = load_backbone(str(folder))
    adapters = build_adapters(backbone.model, **config.adapter.form())
    computed = []
    if checkpointed:
        checkpoint_layers(adapters)
    for module in backbone.model.modules():
        if type(module).__name__.endswith("DecoderLayer"):
            module.self_attn.register_forward_hook(lambda *_: computed.append(1))
    store = PersonalStore(tmp_path / f"{checkpointed}", "one")
    client = Participant("one", [data()], config, backbone, adapters, ALGORITHMS["feddat"], store)
    adapters.initialise(torch.Generator().manual_seed(0), "global")
    result = client.fit(adapters.state("global"), 1)
    return result.shared | {f"own.{key}": value for key, value in store.load(2)[1].items()}, len(computed)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("order", ["alternating", "joint"])
@pytest.mark.parametrize("kind", ["bottleneck", "lora"])
def test_a_round_of_feddat_ends_the_same(folders, tmp_path, family, order, kind):
    values = {"algorithm.order": order, "adapter.peft": kind}
    plain, once = trained(folders[family], tmp_path, False, **values)
    again, twice = trained(folders[family], tmp_path, True, **values)
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, atol=1e-6, rtol=1e-5, msg=key)
    if family != "vilt":  # the model has decoder layers, which backward computed again
        assert twice > once > 0


def gradients(folder, checkpointed):
    """Return the adapters and their gradients from a DAT pass, with the global route open during backward."""
    backbone = load_backbone(str(folder))
    adapters = build_adapters(backbone.model)
    generator = torch.Generator().manual_seed(0)
    for name in ("global", "local", "anchor"):
        adapters.initialise(generator, name)
    if checkpointed:
        checkpoint_layers(adapters)
    backbone.model.train()
    inputs = backbone.encode([View(picture(n), "two?") for n in range(2)]).batch([0, 1], CPU)
    if hasattr(backbone, "answer_tokens"):
        tokens = torch.tensor(backbone.answer_tokens(["two"]) * 2)
        inputs |= {"answer_ids": tokens, "answer_mask": torch.ones_like(tokens).bool(), "answer_rows": torch.arange(2)}
    adapters.route("dat")
    states = backbone.features(inputs)
    adapters.route("global")
    (states * torch.linspace(-1, 1, states.shape[-1])).sum().backward()
    return {name: [p.grad for p in adapters.parameters(name)] for name in ("global", "local", "anchor")}, adapters


@pytest.mark.parametrize("family", FAMILIES)
def test_backward_opens_the_route_of_the_forward_pass(folders, family):
    plain, _ = gradients(folders[family], False)
    found, adapters = gradients(folders[family], True)
    assert adapters.opened == "global"  # backward restores it
    assert all(gradient is None for gradient in [*found["global"], *found["anchor"]])
    for gradient, expected in zip(found["local"], plain["local"], strict=True):
        torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)
    assert any(gradient.abs().sum() > 0 for gradient in found["local"])


def test_less_is_kept_for_backward(folders):
    def kept(checkpointed):
        sizes = []
        backbone = load_backbone(str(folders["smolvlm"]))
        adapters = build_adapters(backbone.model)
        if checkpointed:
            checkpoint_layers(adapters)
        backbone.model.train()
        inputs = backbone.encode([View(picture(0), "two?")]).batch([0], CPU)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
            backbone.read(inputs)
        return sum(sizes)

    assert kept(True) < kept(False) / 2  # two layers; the prompt's keys and values are kept either way


def test_evaluation_and_passes_without_gradients_are_as_they_were(folders):
    backbone = load_backbone(str(folders["vilt"]))
    adapters = build_adapters(backbone.model)
    inputs = backbone.encode([View(picture(0), "two?")]).batch([0], CPU)
    expected = backbone.features(inputs)
    count = checkpoint_layers(adapters)
    assert count == 2
    assert torch.equal(backbone.features(inputs), expected)
    with torch.no_grad():
        backbone.model.train()
        assert torch.equal(backbone.features(inputs), expected)


def test_a_model_without_layers_is_refused():
    adapters = build_adapters(torch.nn.Sequential(torch.nn.Linear(3, 3)), peft="full")
    with pytest.raises(ValueError, match="no layers that can be checkpointed"):
        checkpoint_layers(adapters)
