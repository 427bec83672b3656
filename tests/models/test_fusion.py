import pytest
import torch

from feddat.config import ConfigError, load_config
from feddat.models.two_towers.fusion import FusionTransformer


@pytest.fixture
def fusion():
    torch.manual_seed(0)
    made = FusionTransformer(width=8, image_tokens=2, head_width=4)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("training", [True, False])
@torch.no_grad()
def test_padding_changes_nothing(fusion, training):
    fusion.train(training)
    words, patches = torch.randn(1, 3, 8), torch.randn(1, 2, 8)
    padded = torch.cat([words, torch.zeros(1, 4, 8), patches], dim=1)
    expected = fusion(torch.cat([words, patches], dim=1))
    assert expected.shape == (1, 8)
    torch.testing.assert_close(fusion(padded), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_words_are_told_from_patches(fusion):
    a, b = torch.randn(2, 1, 2, 8)
    assert not torch.allclose(fusion(torch.cat([a, b], dim=1)), fusion(torch.cat([b, a], dim=1)), atol=1e-3)
    # The towers have encoded the order within a stream; the fusion ignores it.
    swapped = torch.cat([a, b], dim=1)[:, [1, 0, 2, 3]]
    torch.testing.assert_close(fusion(swapped), fusion(torch.cat([a, b], dim=1)), atol=1e-5, rtol=0)


def test_reset_draws_from_its_generator_alone(fusion):
    def drawn(seed):
        fusion.reset(torch.Generator().manual_seed(seed))
        return {key: value.clone() for key, value in fusion.state_dict().items()}

    one, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(one[key], again[key]) for key in one)
    drawn_keys = {key for key in one if not torch.equal(one[key], other[key])}
    assert {key for key in one if not key.endswith("bias") and "norm" not in key} - drawn_keys == {
        "entry.weight",
        "exit.weight",
    }
    assert one["layers.0.norm1.weight"].eq(1).all()
    assert one["layers.1.self_attn.in_proj_bias"].eq(0).all()
    assert one["layers.0.linear1.weight"].std() == pytest.approx(0.02, rel=0.2)


def test_gradients_reach_every_parameter(fusion):
    fusion(torch.randn(2, 5, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in fusion.parameters())


def test_a_product_has_nothing_to_share():
    with pytest.raises(ConfigError, match=r"fusion.*kind product has no parameters to share"):
        load_config(overrides=["fusion.side=shared"])
    assert load_config(overrides=["fusion.side=shared", "fusion.kind=transformer"]).fusion.side == "shared"
