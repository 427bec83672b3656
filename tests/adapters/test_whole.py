"""A module that is trained in full beside the adapters: the fusion of two towers, shared with the server."""

import pytest
import torch
from torch import nn

from feddat.adapters.bottleneck import BottleneckConfig
from feddat.adapters.build import build_adapters, count_parameters
from feddat.adapters.dual import DualAdapters
from feddat.example import View
from feddat.models.two_towers.backbone import TwoTowersBackbone
from helpers import make_unit


class Scale(nn.Module):
    """Compute w · x, so that the output shows how a route weighs the adapters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(7.0))

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        self.w.copy_(torch.empty(()).normal_(generator=generator))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.w * states


@pytest.fixture
def model() -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.fusion = Scale()

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return self.fusion(states + 0 * self.layer(states[:, None])[:, 0])

    return Model()


@pytest.fixture
def adapters(model: nn.Module) -> DualAdapters:
    made = DualAdapters(model, BottleneckConfig(target_modules=["layer"], reduction=1), whole="fusion")
    with torch.no_grad():
        for name, value in {"global": 2.0, "local": 3.0, "anchor": 5.0}.items():
            made.named(name)["fusion.whole.w"].fill_(value)
    return made


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("global", 2.0),
        ("local", 3.0),
        ("anchor", 5.0),
        ("dat", 4.0),
        ("none", 7.0),
        ({"global": 0.25, "local": 2.0}, 6.5),
        ({"global": torch.tensor(0.5)}, 1.0),
    ],
)
def test_routes_add_up_weighted_outputs(adapters: DualAdapters, route, expected: float) -> None:
    adapters.route(route)
    assert adapters.model(torch.ones(1, 2)).tolist() == [[expected] * 2]


def test_weights_may_differ_from_row_to_row(adapters: DualAdapters) -> None:
    share = torch.tensor([1.0, 0.0, 0.5]).view(-1, 1, 1)
    adapters.route({"global": share, "local": 1 - share})
    assert adapters.model(torch.ones(3, 2))[:, 0].tolist() == [2.0, 3.0, 2.5]


def test_gradients_go_to_what_trains(adapters: DualAdapters) -> None:
    adapters.route("global")
    shared = adapters.model(torch.ones(1, 2)).sum()
    adapters.route("dat")
    (shared + adapters.model(torch.ones(1, 2)).sum()).backward()
    assert adapters.named("global")["fusion.whole.w"].grad == 2.0
    assert adapters.named("local")["fusion.whole.w"].grad == 1.0
    assert adapters.named("anchor")["fusion.whole.w"].grad is None


def test_each_is_drawn_from_its_own_generator(adapters: DualAdapters) -> None:
    adapters.initialise(torch.Generator().manual_seed(1), "global")
    adapters.initialise(torch.Generator().manual_seed(1), "local")
    first = adapters.state("global")["fusion.whole.w"]
    assert torch.equal(first, adapters.state("local")["fusion.whole.w"])
    assert first != 2.0
    assert adapters.state("anchor")["fusion.whole.w"] == 5.0


@pytest.fixture
def clip(tmp_path) -> TwoTowersBackbone:
    backbone = TwoTowersBackbone(make_unit("clip", tmp_path / "clip"))
    backbone.fuse("transformer", "shared")
    return backbone


@pytest.mark.parametrize("kind", ["bottleneck", "lora", "full"])
def test_a_shared_fusion_trains_and_travels(clip: TwoTowersBackbone, kind: str) -> None:
    fusion = sum(p.numel() for p in clip.model.fusion.parameters())
    backbone = sum(p.numel() for p in clip.model.parameters())
    adapters = build_adapters(clip.model, peft=kind, reduction=4, rank=2)
    entries = adapters.named("global")
    assert sum(p.numel() for key, p in entries.items() if key.startswith("fusion.")) == fusion
    total = sum(p.numel() for p in entries.values())
    counted = count_parameters(adapters, trains=("global",), shares=lambda key: True)
    # The adapter's fusion replaces the original one; kind 'full' replaces the whole model.
    expected = backbone if kind == "full" else backbone - fusion + total
    assert counted == {"total": expected, "trainable": total, "communicated": total}


def test_states_come_back(clip: TwoTowersBackbone) -> None:
    adapters = build_adapters(clip.model, reduction=4)
    inputs = clip.encode([View(torch.zeros(32, 32, 3, dtype=torch.uint8).numpy(), "red")]).batch(
        [0], torch.device("cpu")
    )

    def answer() -> torch.Tensor:
        with torch.no_grad():
            return clip.features(inputs)

    adapters.initialise(torch.Generator().manual_seed(3), "global")
    state, before = adapters.state("global"), answer()
    adapters.initialise(torch.Generator().manual_seed(4), "global")
    assert not torch.allclose(answer(), before, atol=1e-3)
    adapters.load("global", state)
    assert torch.equal(answer(), before)
    adapters.refresh_anchor()
    adapters.route("anchor")
    assert torch.equal(answer(), before)


@pytest.mark.parametrize("kind", ["prompt", "bias", "norm", "head"])
def test_kinds_that_would_leave_a_fusion_untrained_are_refused(clip: TwoTowersBackbone, kind: str) -> None:
    with pytest.raises(ValueError, match=f"kind '{kind}' does not train fusion; use bottleneck, lora or full"):
        build_adapters(clip.model, peft=kind)
