import json

import numpy as np
import pytest
import torch
from transformers import BlipForQuestionAnswering
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from feddat.adapters.build import build_adapters
from feddat.client.generation import AnnotatedAnswers, Generation
from feddat.config import EvalConfig
from feddat.example import Example, View
from feddat.models.base import ModelError
from feddat.models.blip.backbone import BlipBackbone
from feddat.models.catalog import load_backbone, load_encoder
from feddat.models.generative import GenerativeBackbone
from helpers import make_tiny_blip

CPU = torch.device("cpu")
QUESTIONS = ("what is the color ?", "is the circle red ?", "two ?")
ANSWERS = ("red", "no", "blue square", "two")


def picture(seed, size=(40, 56)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


VIEWS = [View(picture(n), text) for n, text in enumerate(QUESTIONS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_blip(tmp_path_factory.mktemp("blip"))


@pytest.fixture
def backbone(folder):
    return BlipBackbone(folder)


@pytest.fixture
def stock(folder):
    return BlipForQuestionAnswering.from_pretrained(folder).eval()


def batch(backbone, rows=(0, 1, 2)):
    return backbone.encode(VIEWS).batch(list(rows), CPU)


def annotated(backbone, rows=(0, 1, 2)):
    examples = [Example(str(n), (), "", answers={ANSWERS[n]: 0.9, ANSWERS[n + 1]: 0.3}) for n in range(3)]
    return batch(backbone, rows) | AnnotatedAnswers(examples, backbone).batch(torch.tensor(rows), CPU)


def test_the_catalog_knows_it(folder):
    assert isinstance(load_backbone(str(folder)), GenerativeBackbone)
    assert load_encoder(str(folder)).fingerprint == BlipBackbone(folder).encoder.fingerprint


def test_images_are_those_of_the_stock_processor(backbone, folder):
    stock = BlipImageProcessorPil.from_pretrained(folder)(VIEWS[0].image, return_tensors="pt")["pixel_values"]
    assert (batch(backbone)["pixel_values"][:1] - stock).abs().max() < 0.02  # one of 256 levels, over the deviation


def test_answers_stand_between_start_and_end(backbone):
    tokenizer = backbone.encoder.tokenizer
    start, *pieces, end = backbone.answer_tokens(["blue square"])[0]
    assert start == len(tokenizer)
    assert tokenizer.convert_ids_to_tokens([*pieces, end]) == ["blue", "square", "[SEP]"]
    assert backbone.answer_text(pieces) == "blue square"
    assert backbone.answer_text([start, pieces[0], start + 1]) == "blue"


@pytest.mark.parametrize("row", range(3))
def test_logits_are_the_stock_models(backbone, stock, row):
    """Compare one question at a time: in the stock model, a question's padding influences the answers."""
    inputs = annotated(backbone, [row])
    logits = backbone.answer_head()(backbone.features(inputs))
    ids, mask = inputs["answer_ids"], inputs["answer_mask"]
    image = stock.vision_model(inputs["pixel_values"]).last_hidden_state
    question = stock.text_encoder(inputs["input_ids"], encoder_hidden_states=image).last_hidden_state.expand(2, -1, -1)
    expected = stock.text_decoder(ids, attention_mask=mask.long(), encoder_hidden_states=question).logits[:, :-1]
    torch.testing.assert_close(logits[mask[:, 1:]], expected[mask[:, 1:]], atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_stock_models(backbone, stock):
    """With one answer of weight 1, the loss is the stock loss summed over the answer's tokens."""
    inputs = batch(backbone, [0])
    examples = [Example("0", (), "", answers={"blue square": 1.0})]
    inputs |= AnnotatedAnswers(examples, backbone).batch(torch.tensor([0]), CPU)
    generation = Generation(backbone, ANSWERS, EvalConfig())
    found = generation.loss(backbone.answer_head()(backbone.features(inputs)), inputs, 1)
    ids = inputs["answer_ids"]
    expected = stock(
        input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"],
        attention_mask=inputs["attention_mask"], labels=ids,
    ).loss  # fmt: skip
    assert found.item() == pytest.approx(expected.item() * (ids.shape[1] - 1), rel=1e-5)


def test_neither_padding_nor_neighbours_change_an_answer(backbone):
    head = backbone.answer_head()
    alone = head(backbone.features(annotated(backbone, [2])))
    inputs = annotated(backbone)
    together = head(backbone.features(inputs))[inputs["answer_rows"] == 2]
    length = alone.shape[1]
    torch.testing.assert_close(together[:, :length], alone, atol=1e-5, rtol=1e-5)


def test_ranking_is_the_stock_models_likelihoods(backbone, stock):
    inputs = batch(backbone, [1])
    found = Generation(backbone, ANSWERS, EvalConfig()).answer(backbone.answer_head(), inputs)
    for answer, likelihood in zip(ANSWERS, found[0].tolist(), strict=True):
        ids = torch.tensor(backbone.answer_tokens([answer]))
        loss = stock(
            input_ids=inputs["input_ids"], pixel_values=inputs["pixel_values"],
            attention_mask=inputs["attention_mask"], labels=ids,
        ).loss  # fmt: skip
        assert likelihood == pytest.approx(-loss.item() * (ids.shape[1] - 1), rel=1e-4)


def test_free_writing_is_the_stock_models(backbone, stock):
    generation = Generation(backbone, ANSWERS, EvalConfig(answers="generate"))
    for row in range(3):
        inputs = batch(backbone, [row])
        generation.answer(backbone.answer_head(), inputs)
        ids = stock.generate(
            inputs["input_ids"], inputs["pixel_values"], max_new_tokens=11, do_sample=False, num_beams=1
        )[0, 1:].tolist()  # fmt: skip
        end = ids.index(3) if 3 in ids else None
        assert generation.written[0][0] == backbone.answer_text(ids[:end])


def test_the_head_is_a_trainable_copy_apart_from_the_model(backbone):
    head, other = backbone.answer_head(), backbone.answer_head()
    assert all(parameter.requires_grad for parameter in head.parameters())
    assert not {id(p) for p in head.parameters()} & {id(p) for p in backbone.model.parameters()}
    with torch.no_grad():
        head[1].weight.zero_()
    assert other[1].weight.abs().sum() > 0
    assert not any(p.requires_grad for p in backbone.model.parameters())


SITES = {
    None: 2,
    r"(text_encoder|text_decoder\.bert)\.encoder\.layer\.\d+\.output": 4,
    r".*\.layer\.\d+\.output|vision_model\.encoder\.layers\.\d+": 6,
}


@pytest.mark.parametrize("sites", SITES)
def test_adapters_move_the_answers_and_get_gradients(backbone, sites):
    torch.manual_seed(0)
    adapters = build_adapters(backbone.model, reduction=4, sites=sites)
    assert len(adapters.named("global")) == 4 * SITES[sites]
    inputs, results = annotated(backbone), []
    for route in ("none", "global", "dat"):
        adapters.route(route)
        results.append(backbone.features(inputs))
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])
    # The sum of a layer norm's outputs is constant, so each state gets its own weight.
    weight = torch.randn(results[1].shape)
    (weight * (results[1] + results[2])).sum().backward()
    for name in ("global", "local"):
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters(name))


@pytest.mark.parametrize("kind", ["lora", "prompt", "norm", "bias"])
def test_other_kinds_of_adapter(backbone, kind):
    adapters = build_adapters(backbone.model, peft=kind)
    inputs = annotated(backbone)
    adapters.route("global")
    backbone.features(inputs).square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapters.parameters("global"))


def broken(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for section, values in changes.items():
        config[section] |= values
    path.write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"text_config": {"num_hidden_layers": 3}}, "weights lack .* text_.*coder"),
        ({"text_config": {"bos_token_id": 999}}, "bos_token_id is 999; expected 0 to"),
        ({"vision_config": {"image_size": 64}}, "differ in shape from config.json"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(tmp_path, change, said):
    with pytest.raises(ModelError, match=said):
        BlipBackbone(broken(make_tiny_blip(tmp_path / "blip"), **change))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"])
def test_a_missing_file_is_named(tmp_path, missing):
    folder = make_tiny_blip(tmp_path / "blip")
    for name in [missing, *(["processor_config.json"] if missing.startswith("pre") else [])]:
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ModelError, match=missing):
        BlipBackbone(folder)
