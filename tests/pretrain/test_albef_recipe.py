"""The recipe of albef-mini: its starting weights, its losses, and that its saved folder gives the same answers."""

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, ViltForMaskedLM

from feddat.client.generation import Generation
from feddat.config import ConfigError, EvalConfig
from feddat.data.mini.captions import ANSWERS, question
from feddat.data.mini.concepts import CONCEPTS
from feddat.data.mini.scene import sample_scenes
from feddat.data.mini.vocabulary import vocabulary
from feddat.models import load_backbone
from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.catalog import model_folder
from feddat.models.vilt.fast import make_fast
from feddat.models.weights import load_weights
from feddat.pretrain.albef import AlbefObjective, AlbefSettings, draw_negatives
from feddat.pretrain.albef_start import start_from_vilt
from feddat.pretrain.batches import IGNORE, Batch, BatchMaker, Row, scene_views
from feddat.pretrain.quality import measure
from feddat.pretrain.train import new_model, parse_settings, pretrain
from feddat.seeding import numpy_generator

TINY = ["hidden=32", "heads=2", "layers=2", "text_layers=2", "fusion_layer=1", "decoder_layers=1", "start=none"]
SHORT = ["family=albef", *TINY, "batch_size=16", "every=2", "simple_steps=2", "warmup=2", "frozen=1"]


def maker(batch_size: int = 64) -> BatchMaker:
    modes = AlbefObjective.modes
    return BatchMaker(vocabulary(), len(CONCEPTS), batch_size, seed=0, modes=modes, closed_questions=False)


def tiny() -> AlbefObjective:
    model = new_model(parse_settings(SHORT))
    assert isinstance(model, AlbefObjective)
    return model


def test_the_image_encoder_starts_as_the_vilt_without_a_text() -> None:
    model = AlbefObjective.new(AlbefSettings())
    vilt = make_fast(ViltForMaskedLM.from_pretrained(model_folder("vilt-mini"))).eval()
    (batch,) = maker(4).training(0, (1, 2, 3, 4), parts=1)
    pixels = batch.inputs["pixel_values"]
    no_text = {"input_ids": torch.zeros(4, 1, dtype=torch.long), "attention_mask": torch.zeros(4, 1, dtype=torch.long)}
    with torch.no_grad():
        expected = vilt.vilt(**no_text, pixel_values=pixels).last_hidden_state[:, 1:]
        torch.testing.assert_close(model.albef.albef.vision(pixels).last_hidden_state, expected, atol=1e-4, rtol=1e-4)
        words = torch.tensor([[7, 200, 300]])
        embedded = vilt.vilt.embeddings.text_embeddings(words)
        for part in (model.albef.albef.text_encoder, model.albef.albef.text_decoder):
            torch.testing.assert_close(part.embeddings(input_ids=words), embedded, atol=1e-4, rtol=1e-4)
        states = torch.randn(2, 160, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(model.albef.head(states), vilt.mlm_score(states), atol=1e-3, rtol=1e-3)


def test_a_vilt_of_another_size_is_refused() -> None:
    with pytest.raises(ModelError, match=r"start=vilt-mini: .* is \(.*160.*\), but the new model has \(.*32.*\)"):
        start_from_vilt(tiny().albef, "vilt-mini")


def test_a_fusion_layer_beyond_the_text_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match="fusion_layer=2: expected 0 to 1"):
        new_model(parse_settings([*SHORT, "fusion_layer=2"]))


def test_only_captions_end_with_sep() -> None:
    (batch,) = maker().training(0, (2, 3), parts=1)
    last = batch.inputs["attention_mask"].sum(1) - 1
    closed = batch.inputs["input_ids"][torch.arange(64), last] == vocabulary().index("[SEP]")
    assert 0 < batch.question.sum() < 64
    assert torch.equal(closed, ~batch.question)


def test_negatives_are_wrong_and_mostly_the_likely_ones() -> None:
    # Fitting pairs are on the diagonal. Of the others, image 0 is most similar to text 1, and text 0 to image 2.
    scores = torch.tensor([[99.0, 4.0, 0.0], [0.0, 99.0, 0.0], [4.0, 0.0, 99.0]])
    drawn = [draw_negatives(scores, seed) for seed in range(200)]
    texts = torch.stack([text for text, _ in drawn])
    images = torch.stack([image for _, image in drawn])
    own = torch.arange(3)
    assert not (texts == own).any()
    assert not (images == own).any()
    likely = 1 / (1 + torch.tensor(-4.0).exp())  # 0.98
    assert abs((texts[:, 0] == 1).float().mean() - likely) < 0.04
    assert abs((images[:, 0] == 2).float().mean() - likely) < 0.04
    assert abs((texts[:, 1] == 0).float().mean() - 0.5) < 0.12
    assert all(torch.equal(a, b) for a, b in zip(draw_negatives(scores, 7), drawn[7], strict=True))


def test_the_contrast_is_that_of_captions_which_fit() -> None:
    model, (batch,) = tiny(), maker().training(0, (1, 2), parts=1)
    fitting = ~batch.question & (batch.match != 0)
    image = model.albef.albef.vision(batch.inputs["pixel_values"]).last_hidden_state[:, 0]
    text = model.albef.albef.read_text(batch.inputs["input_ids"], batch.inputs["attention_mask"])[:, 0]
    scores = model.similarities(image[fitting], text[fitting])
    both = -(scores.log_softmax(1).diagonal().mean() + scores.log_softmax(0).diagonal().mean()) / 2
    torch.testing.assert_close(model(batch)["contrast"], both)
    assert scores.abs().max() <= 1 / 0.07 + 1e-4


def test_a_batch_without_captions_or_without_questions_has_finite_losses() -> None:
    model = tiny()
    for mode, empty in (("question", ("contrast", "match", "negative", "word")), ("mask", ("answer", "match"))):
        losses = model(_batch(mode))
        assert all(loss.isfinite() for loss in losses.values())
        assert [losses[key].item() for key in empty] == [0] * len(empty)
        assert all(losses[key] > 0 for key in losses if key not in empty and key != "negative")


def test_every_answer_of_a_question_can_be_ranked() -> None:
    random = Random(0)
    views = scene_views(sample_scenes(numpy_generator(0, "test"), 2000, "pretrain", (1, 2, 3, 4)))
    asked = {question(view, random).answer for view in views}
    assert asked <= set(ANSWERS)
    assert len(asked) > 0.9 * len(ANSWERS)
    assert set(ANSWERS) <= set(vocabulary())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of six steps."""
    folder = tmp_path_factory.mktemp("albef")
    pretrain(folder, parse_settings([*SHORT, "steps=6"]))
    return folder


def test_a_resumed_run_equals_an_uninterrupted_one(whole: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def interrupt(event: dict[str, object]) -> None:
        if event["step"] == 4:
            raise Stop

    settings = parse_settings([*SHORT, "steps=6"])
    with pytest.raises(Stop):
        pretrain(tmp_path, settings, interrupt)
    pretrain(tmp_path, settings)
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in (whole, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "96 scenes" in card
    assert "family=albef" in card


def test_frozen_layers_stay_and_all_others_move(whole: Path) -> None:
    start, end = tiny().albef.state_dict(), _load(whole).albef.state_dict()
    moved = {key for key in end if not torch.equal(end[key], start[key].half().float())}
    assert not [key for key in moved if ".vision.embeddings." in key or ".vision.layers.0." in key]
    text = [f"albef.text_encoder.encoder.layer.{n}.output.dense.weight" for n in (0, 1)]
    decoder = "albef.text_decoder.encoder.layer.0.crossattention.self.query.weight"
    assert {"albef.vision.layers.1.mlp.fc1.weight", *text, decoder, "head.decoder.weight"} <= moved


def test_the_model_folder_answers_as_it_was_measured(whole: Path) -> None:
    """A client that loads the folder and asks in text gets the answers that pretraining measured."""
    backbone, model, batch = load_backbone(str(whole / "model")), _load(whole), _batch("question")
    tokenizer = AutoTokenizer.from_pretrained(whole / "model")
    rows = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"].bool(), strict=True)
    ids = [row[mask] for row, mask in rows]
    texts = [tokenizer.decode(row, skip_special_tokens=True) + " ?" for row in ids]
    assert backbone.encoder.texts(texts) == [row.tolist() for row in ids]
    generation = Generation(backbone, ANSWERS, EvalConfig(rank_top=len(ANSWERS)))
    backbone.first_token_counts = 1
    with torch.no_grad():
        ranked = generation.answer(backbone.answer_head(), dict(batch.inputs)).argmax(-1)
        assert torch.equal(model.answers[ranked], model.answer(batch))


def _load(folder: Path) -> AlbefObjective:
    model = tiny()
    model.albef = load_weights(AlbefForQuestionAnswering, folder / "model", "ALBEF").eval()
    return model


def test_the_bundled_model_keeps_its_promised_quality() -> None:
    folder = model_folder("albef-mini")
    model = AlbefObjective.new(AlbefSettings())
    model.albef = load_weights(AlbefForQuestionAnswering, folder, "ALBEF").eval()
    quality = {
        k: v for k, v in measure(model, maker(), 256, "test").items() if k != "match"
    }  # the folder has no read-out for it
    published = json.loads((folder / "quality.json").read_text())
    assert published.keys() - quality.keys() == {"match"}
    for kind in ("word", "question"):
        own, told = ([v for k, v in values.items() if k.startswith(kind)] for values in (quality, published))
        assert abs(sum(own) / len(own) - sum(told) / len(told)) < 6
    assert load_backbone("albef-mini").feature_dim == 160


def _batch(mode: str) -> Batch:
    random, rng = Random(0), numpy_generator(0, "test")
    scenes = sample_scenes(rng, 16, "pretrain")
    return maker().assemble(scenes, [Row.draw(view, mode, random) for view in scene_views(scenes)], rng)


def test_losses_fall() -> None:
    model = AlbefObjective.new(AlbefSettings.parse([*TINY, "text_layers=2"]))
    (batch,) = maker(48).training(0, (1, 2), parts=1)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=5e-3)
    weights = AlbefSettings().loss_weights
    history = []
    for _ in range(30):
        losses = model(batch)
        history.append({key: value.item() for key, value in losses.items()})
        torch.stack([weights[key] * value for key, value in losses.items()]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(weights) == set(history[0])
    for key in ("contrast", "word", "answer", "object", "colour", "mention_cell", "mention_colour"):
        assert history[-1][key] < 0.9 * history[0][key], key
    assert (batch.word != IGNORE).any()
