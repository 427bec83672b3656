import pytest
import torch

from feddat.models.albef.model import AlbefConfig, AlbefModel
from feddat.models.base import ModelError
from helpers import tiny_albef_config

ONES = torch.ones(1, 3, dtype=torch.long)
QUESTION = torch.tensor([[2, 6, 7]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = AlbefModel(tiny_albef_config()).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.requires_grad_(False)


def image(seed: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def moved(before, after) -> list[bool]:
    return [not torch.allclose(a, b, atol=1e-6) for a, b in zip(before[0], after[0], strict=True)]


def test_every_word_sees_every_word(model):
    before = model.encode(QUESTION, ONES, image())
    after = model.encode(torch.tensor([[2, 6, 8]]), ONES, image())
    assert moved(before, after) == [True, True, True]


def test_the_image_enters_at_the_fusion_layers(model):
    states = []
    first_fusion = model.text_encoder.encoder.layer[2]
    hook = first_fusion.register_forward_pre_hook(lambda module, args: states.append(args[0]))
    ends = [model.encode(QUESTION, ONES, image(seed)) for seed in (0, 1)]
    hook.remove()
    assert torch.equal(*states)
    assert moved(*ends) == [True, True, True]


def test_reading_a_text_and_fusing_it_is_encoding_it(model):
    padded, mask = torch.tensor([[2, 6, 7], [2, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    images = torch.cat([image(0), image(1)])
    text, seen = model.read_text(padded, mask), model.vision(images).last_hidden_state
    ends = model.encode(padded, mask, images)
    torch.testing.assert_close(model.fuse(text, mask, seen)[mask.bool()], ends[mask.bool()])
    swapped = model.encode(padded, mask, images.flip(0))
    torch.testing.assert_close(model.fuse(text, mask, seen.flip(0))[mask.bool()], swapped[mask.bool()])


def test_an_answers_tokens_see_those_before_them_and_the_question(model):
    question = model.encode(QUESTION, ONES, image())
    answer = torch.tensor([[2, 9, 10]])
    before = model.decode(answer, ONES, question, ONES)
    assert moved(before, model.decode(torch.tensor([[2, 9, 11]]), ONES, question, ONES)) == [False, False, True]
    other = model.encode(torch.tensor([[2, 6, 8]]), ONES, image())
    assert moved(before, model.decode(answer, ONES, other, ONES)) == [True, True, True]


def test_padding_changes_nothing(model):
    padded, mask = torch.tensor([[2, 6, 7, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])
    question = model.encode(QUESTION, ONES, image())
    padded_question = model.encode(padded, mask, image())
    torch.testing.assert_close(padded_question[:, :3], question)
    answer = model.decode(torch.tensor([[2, 9, 10]]), ONES, question, ONES)
    padded_answer = model.decode(torch.tensor([[2, 9, 10, 0, 0]]), mask, padded_question, mask)
    torch.testing.assert_close(padded_answer[:, :3], answer)


def test_the_default_is_the_published_model():
    config = AlbefConfig()
    assert (config.fusion_layer, config.decoder_layers, config.text_config.num_hidden_layers) == (6, 6, 12)
    vision = config.vision_config
    assert (vision.image_size, vision.patch_size, vision.num_hidden_layers, vision.layer_norm_eps) == (
        384,
        16,
        12,
        1e-6,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fusion_layer": 4}, "fusion_layer 4; expected 0 to 3, a layer of the text encoder"),
        (
            {"vision_config": {"hidden_size": 48, "num_attention_heads": 2}},
            "hidden_size 48 and .*hidden_size 32 differ",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ModelError, match=message):
        tiny_albef_config(**values)
