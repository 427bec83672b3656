"""ALBEF as a backbone. The tests recompute losses and rankings as the published code does."""

import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from feddat.adapters.build import build_adapters
from feddat.adapters.sites import default_sites
from feddat.client.generation import AnnotatedAnswers, Generation
from feddat.config import EvalConfig
from feddat.example import Example, View
from feddat.models.albef.model import AlbefConfig, AlbefModel
from feddat.models.base import ModelError
from feddat.models.catalog import load_backbone
from feddat.models.generative import GenerativeBackbone
from helpers import make_tiny_albef

CPU = torch.device("cpu")
EXAMPLES = [
    Example("0", (np.zeros((32, 32, 3), np.uint8),), "what color is the circle", {"red": 0.9, "dark red": 0.3}),
    Example("1", (np.full((20, 40, 3), 200, np.uint8),), "is the square blue", {"yes": 1.0}),
]
ANSWERS = ("red", "dark red", "yes", "no", "two", "red square", "dark")


def inputs(backbone) -> dict[str, torch.Tensor]:
    views = backbone.encode([View(example.images[0], example.text) for example in EXAMPLES])
    return views.batch([0, 1], CPU) | AnnotatedAnswers(EXAMPLES, backbone).batch(torch.arange(2), CPU)


def log_likelihoods(backbone, head, batch, question: int, answer: str) -> list[float]:
    """Return log p of each token of an answer, computed for one question and one answer without padding."""
    kept = batch["attention_mask"][question].bool()
    ids, mask = batch["input_ids"][question, kept][None], torch.ones(1, int(kept.sum()))
    states = backbone.model.encode(ids, mask, batch["pixel_values"][question][None])
    tokens = torch.tensor(backbone.answer_tokens([answer]))
    scores = head(backbone.model.decode(tokens, torch.ones_like(tokens), states, mask)).log_softmax(-1)
    return [scores[0, i, token].item() for i, token in enumerate(tokens[0, 1:].tolist())]


def test_it_writes_answers(backbone):
    assert isinstance(backbone, GenerativeBackbone)
    assert (backbone.family, backbone.feature_dim) == ("albef", 32)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    assert backbone.word_head(ANSWERS) is None


def test_a_head_is_a_trainable_copy(backbone):
    first, second = backbone.answer_head(), backbone.answer_head()
    assert all(parameter.requires_grad for parameter in first.parameters())
    with torch.no_grad():
        first.decoder.weight.zero_()
    assert second.decoder.weight.abs().sum() > 0


@torch.no_grad()
def test_the_answer_loss_is_the_published_one(backbone):
    head, batch = backbone.answer_head(), inputs(backbone)
    loss = Generation(backbone, ANSWERS, EvalConfig()).loss(head(backbone.features(batch)), batch, 2)
    by_hand = [log_likelihoods(backbone, head, batch, i, a) for i, a in ((0, "red"), (0, "dark red"), (1, "yes"))]
    weighted = sum(w * -sum(scores) for w, scores in zip((0.75, 0.25, 1.0), by_hand, strict=True))
    assert loss.item() == pytest.approx(weighted / 2, abs=1e-5)


@torch.no_grad()
def test_the_ranking_counts_the_first_token_twice_as_published(backbone):
    head, batch = backbone.answer_head(), inputs(backbone)
    ranked = Generation(backbone, ANSWERS, EvalConfig(batch_size=4)).answer(head, batch)
    for question in range(2):
        for index, answer in enumerate(ANSWERS):
            scores = log_likelihoods(backbone, head, batch, question, answer)
            assert ranked[question, index].item() == pytest.approx(sum(scores) + scores[0], abs=1e-4)


@torch.no_grad()
def test_it_writes_freely_too(backbone):
    generation = Generation(backbone, ANSWERS, EvalConfig(answers="generate"))
    head = backbone.answer_head()
    head.decoder.bias[backbone.encoder.tokenizer.convert_tokens_to_ids("[SEP]")] += 100
    generation.answer(head, inputs(backbone))
    assert [text for text, _ in generation.written] == ["", ""]  # only the end token


@pytest.mark.parametrize(("kind", "count"), [("bottleneck", 30), ("lora", 60)])
def test_the_published_model_has_a_site_in_every_layer(kind, count):
    with torch.device("meta"):
        model = AlbefModel(AlbefConfig())
    pattern = getattr(default_sites("albef"), kind)
    names = [name for name, _ in model.named_modules() if re.fullmatch(pattern, name)]
    assert len(names) == count  # 12 + 12 + 6 layers; LoRA: query and value of each self-attention


@pytest.mark.parametrize("kind", ["bottleneck", "lora", "prompt"])
def test_adapters_of_every_kind_change_answers_and_get_gradients(tmp_path, kind):
    backbone = load_backbone(str(make_tiny_albef(tmp_path / "tiny")))
    batch = inputs(backbone)
    before = backbone.features(batch)
    adapters = build_adapters(backbone.model, peft=kind)
    with torch.no_grad():
        for parameter in adapters.parameters("global"):
            parameter.add_(0.1)
    adapters.route("global")
    after = backbone.features(batch)
    assert not torch.allclose(before, after, atol=1e-4)
    after.square().sum().backward()
    assert all(parameter.grad is not None for parameter in adapters.parameters("global"))
    adapters.route("none")
    assert torch.allclose(backbone.features(batch), before, atol=1e-6)


def test_incomplete_weights_are_named(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["head.decoder.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights lack 1 tensor\(s\): head.decoder.bias"):
        load_backbone(str(folder))
