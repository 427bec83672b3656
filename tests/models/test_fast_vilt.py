import copy

import pytest
import torch
from transformers import BertConfig, BertModel, ViltConfig, ViltForMaskedLM, ViltModel

from feddat.models import attention
from feddat.models.vilt.fast import make_fast

TEXT = 5


def config(**changes) -> ViltConfig:
    values = {
        "vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "image_size": 64, "patch_size": 16, "max_position_embeddings": 12,
    }  # fmt: skip
    return ViltConfig(**(values | changes))


def stock_model(**changes) -> ViltModel:
    """Return a model with random parameters; a fresh one has zeros as position embeddings and biases."""
    torch.manual_seed(0)
    model = ViltModel(config(**changes)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def inputs(sizes: list[tuple[int, int]], pad_text: bool = True) -> dict[str, torch.Tensor]:
    """Return images of the given pixel sizes, padded to the largest, and random texts of unequal lengths."""
    generator = torch.Generator().manual_seed(1)
    height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
    pixels = torch.zeros(len(sizes), 3, height, width)
    mask = torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :, :h, :w] = torch.randn(3, h, w, generator=generator)
        mask[i, :h, :w] = 1
    words = torch.ones(len(sizes), TEXT, dtype=torch.long)
    if pad_text:
        words[0, 3:] = 0
    return {
        "input_ids": torch.randint(0, 30, (len(sizes), TEXT), generator=generator),
        "attention_mask": words, "pixel_values": pixels, "pixel_mask": mask,
    }  # fmt: skip


def token_mask(model: ViltModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return which text and image tokens a model attends to, (N, tokens)."""
    torch.manual_seed(3)
    mask = model.embeddings(
        batch["input_ids"], batch["attention_mask"], None, batch["pixel_values"], batch["pixel_mask"], None, None
    )[1]
    return mask.reshape(len(mask), -1).bool()


def assert_same_set(a: torch.Tensor, b: torch.Tensor) -> None:
    """Assert that the rows of a and b are equal up to their order."""
    assert a.shape == b.shape
    distance = torch.cdist(a, b)
    assert distance.amin(dim=1).max() < 1e-4
    assert sorted(distance.argmin(dim=1).tolist()) == list(range(len(a)))


@pytest.mark.parametrize(
    "sizes",
    [
        [(64, 64), (64, 64)],  # native: no interpolation
        [(64, 96), (64, 96)],  # one other size for all
        [(64, 64), (64, 96), (96, 48)],  # sizes differ, and no image fills the frame
        [(64, 64), (32, 48)],  # one image fills the frame
        [(16, 64), (80, 16)],  # one patch row, one patch column
    ],
)
@torch.no_grad()
def test_equals_stock_model(sizes):
    stock = stock_model()
    fast = make_fast(copy.deepcopy(stock))
    batch = inputs(sizes)
    expected, actual = stock(**batch), fast(**batch)
    torch.testing.assert_close(actual.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        actual.last_hidden_state[:, :TEXT][real], expected.last_hidden_state[:, :TEXT][real], atol=1e-5, rtol=0
    )
    for i, (h, w) in enumerate(sizes):
        images = [
            output.last_hidden_state[i, TEXT:][mask[i, TEXT:]]
            for output, mask in ((expected, token_mask(stock, batch)), (actual, token_mask(fast, batch)))
        ]
        assert len(images[0]) == 1 + (h // 16) * (w // 16)
        assert_same_set(*images)


@torch.no_grad()
def test_no_padding_anywhere_gives_no_mask_and_the_same_numbers():
    stock = stock_model()
    fast = make_fast(copy.deepcopy(stock))
    batch = inputs([(64, 64)] * 2, pad_text=False)
    args = (batch["input_ids"], batch["attention_mask"], None, batch["pixel_values"], batch["pixel_mask"], None, None)
    assert fast.embeddings(*args)[1] is None
    torch.testing.assert_close(fast(**batch).pooler_output, stock(**batch).pooler_output, atol=1e-5, rtol=0)


@torch.no_grad()
def test_padding_does_not_change_an_image():
    fast = make_fast(stock_model())
    batch = inputs([(32, 48), (96, 96)])
    alone = {k: v[:1] for k, v in batch.items()} | {"pixel_values": batch["pixel_values"][:1, :, :32, :48]}
    alone["pixel_mask"] = torch.ones(1, 32, 48, dtype=torch.long)
    torch.testing.assert_close(fast(**batch).pooler_output[:1], fast(**alone).pooler_output, atol=1e-5, rtol=0)


@torch.no_grad()
def test_mask_of_patch_resolution_equals_mask_of_pixels():
    fast = make_fast(stock_model())
    batch = inputs([(32, 48), (96, 64)])
    coarse = batch | {"pixel_mask": batch["pixel_mask"][:, ::16, ::16]}
    assert torch.equal(fast(**batch).pooler_output, fast(**coarse).pooler_output)


@torch.no_grad()
def test_padding_rows_and_columns_are_dropped():
    fast = make_fast(stock_model())
    batch = inputs([(32, 32), (32, 48)])
    batch["pixel_values"] = torch.nn.functional.pad(batch["pixel_values"], (0, 48, 0, 64))
    batch["pixel_mask"] = torch.nn.functional.pad(batch["pixel_mask"], (0, 48, 0, 64))
    assert fast(**batch).last_hidden_state.shape[1] == TEXT + 1 + 2 * 3


@torch.no_grad()
def test_too_many_patches_are_thinned_evenly_and_always_alike():
    fast = make_fast(stock_model(max_image_length=3))
    pixels, ones = torch.randn(2, 3, 32, 64), torch.ones(2, 32, 64)
    ones[1, :, 32:] = 0
    all_tokens, _, _ = fast.embeddings.visual_embed(pixels, ones, -1)
    kept, mask, _ = fast.embeddings.visual_embed(pixels, ones, 3)
    # Of 8 patches, 0, 8 // 3 and 16 // 3 are kept. The narrower image has 4 patches (columns 0 and 1 of two rows
    # of 4), of which the first 3 are kept.
    torch.testing.assert_close(kept[0], all_tokens[0, [0, 1, 3, 6]])
    torch.testing.assert_close(kept[1], all_tokens[1, [0, 1, 2, 5]])
    assert mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    batch = inputs([(64, 64)])
    assert torch.equal(fast(**batch).pooler_output, fast(**batch).pooler_output)


def test_masked_language_model_keeps_its_state_dict_loss_and_gradients():
    torch.manual_seed(0)
    stock = ViltForMaskedLM(config())
    fast = make_fast(copy.deepcopy(stock))
    assert list(fast.state_dict()) == list(stock.state_dict())
    batch = inputs([(64, 64), (64, 32)])
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    losses = [model(**batch, labels=labels).loss for model in (stock, fast)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=0)
    for (name, a), b in zip(fast.named_parameters(), stock.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def test_attention_weights_are_still_available():
    stock = stock_model()
    fast = make_fast(copy.deepcopy(stock))
    batch = inputs([(64, 64)] * 2)
    expected, actual = stock(**batch, output_attentions=True), fast(**batch, output_attentions=True)
    assert actual.attentions[1].shape == expected.attentions[1].shape == (2, 4, TEXT + 17, TEXT + 17)
    torch.testing.assert_close(actual.attentions[1][0, :, 0, :3], expected.attentions[1][0, :, 0, :3])
    assert actual.attentions[1][0, :, :, 3:TEXT].abs().max() == 0


@pytest.mark.parametrize("sizes", [[(64, 64)] * 2, [(64, 32), (48, 64)]])
def test_trains_under_bf16_autocast_and_in_float64(sizes):
    batch = inputs(sizes)
    exact = make_fast(stock_model().double())
    reference = exact(**batch | {"pixel_values": batch["pixel_values"].double()}).pooler_output
    assert reference.dtype == torch.float64
    model = make_fast(stock_model()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = model(**batch).pooler_output
    pooled.float().sum().backward()
    assert model.embeddings.position_embeddings.grad.abs().sum() > 0
    torch.testing.assert_close(pooled.double(), reference, atol=0.15, rtol=0)
    torch.testing.assert_close(make_fast(stock_model())(**batch).pooler_output.double(), reference, atol=1e-4, rtol=0)


@torch.no_grad()
def test_attention_dropout_is_off_in_eval_and_on_in_training():
    model = make_fast(stock_model(attention_probs_dropout_prob=0.5))
    batch = inputs([(64, 64)])
    assert torch.equal(model(**batch).pooler_output, model(**batch).pooler_output)
    model.train()
    assert not torch.equal(model(**batch).pooler_output, model(**batch).pooler_output)


def test_refuses_other_models():
    with pytest.raises(TypeError, match="BertModel"):
        make_fast(BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)))


def test_long_texts_under_bf16_autocast_train_through_the_long_attention(monkeypatch):
    model = make_fast(stock_model()).train()
    batch = inputs([(64, 64)] * 2)
    gradients = []
    for long in (1, 10**6):
        monkeypatch.setattr(attention, "_LONG", long)
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = model(**batch).pooler_output
        pooled.float().sum().backward()
        gradients.append(model.encoder.layer[0].attention.attention.key.weight.grad.clone())
    ours, eager = gradients
    assert not torch.equal(ours, eager)
    torch.testing.assert_close(ours, eager, atol=float(0.02 * eager.abs().max()), rtol=0.05)
