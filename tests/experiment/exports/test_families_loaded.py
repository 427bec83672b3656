"""Models of many families, and of every way to answer and task, exported from a run and loaded with ``feddat.load``."""

import json

import numpy as np
import pytest
import stock
import torch
from answers import of_run, questions, same_answers

import feddat
from feddat.example import View
from feddat.experiment import Experiment
from feddat.experiment.exports.write import Options, export

FUSED = {"fusion__kind": "transformer", "fusion__side": "shared"}
#: Name, which starts with the family -> settings. Adapters are bottlenecks, or LoRA if merging is tested as well.
#: test_kinds_exported.py tests every kind, without a federation.
RUNS = {
    "vilt-bert, LoRA": {"adapter__peft": "lora"},
    "vilt, words, LoRA": {"head__init": "words", "adapter__peft": "lora"},
    "blip, LoRA": {"adapter__peft": "lora"},
    "blip, generate": {"eval__answers": "generate"},
    "blip, classes, LoRA": {"eval__answers": "classes", "adapter__peft": "lora"},
    "albef, LoRA": {"adapter__peft": "lora"},
    "clip, personal fusion, LoRA": {"fusion__kind": "transformer", "adapter__peft": "lora"},
    "clip, shared fusion": FUSED,
    "siglip, shared fusion, LoRA": FUSED | {"adapter__peft": "lora"},
    "smolvlm, LoRA": {"adapter__peft": "lora"},
    "qwen2_vl, classes, LoRA": {"eval__answers": "classes", "adapter__peft": "lora"},
}


@pytest.mark.parametrize("name", RUNS)
def test_what_is_loaded_answers_as_the_run_does(finished, folders, tmp_path, name):
    family = name.partition(",")[0]
    run = finished(model=str(folders(family)), rounds=1, method="feddat", **RUNS[name])
    experiment, asked = Experiment.open(run), questions(run)[:3]
    expected = of_run(run, "ann", asked)
    experiment.export(tmp_path / "ann", "ann")
    same_answers(feddat.load(tmp_path / "ann").answers(asked), expected, 1e-4)
    if RUNS[name].get("adapter__peft") == "lora":
        experiment.export(tmp_path / "merged", "ann", options=Options(merge=True))
        same_answers(feddat.load(tmp_path / "merged").answers(asked), expected, 1e-4)


@pytest.fixture(scope="module")
def tasks(finished, folders):
    """The folder of a run with one client of each task."""
    return finished(
        model=str(folders("vilt")), rounds=1, method="feddat-lora", clients=None, benchmark="mini/task",
        train_examples=16, test_examples=4, train__batch_size=8,
    )  # fmt: skip


def client_of(run, task):
    """Return the first client with a task, and two of its questions."""
    federation, _ = Experiment.open(run)._latest()
    name = next(name for name, data in federation.data.items() if data.task == task)
    return name, federation.data[name].test[:2]


@pytest.mark.parametrize("task", ["vqa", "nlvr2", "snli-ve", "vcr"])
def test_every_task(tasks, tmp_path, task):
    name, asked = client_of(tasks, task)
    expected = of_run(tasks, name, asked)
    for merge in (False, True):
        folder = Experiment.open(tasks).export(tmp_path / str(merge), name, options=Options(merge=merge))
        model = feddat.load(folder)
        assert model.task == task
        same_answers(model.answers(asked), expected)
    example = asked[0]
    assert model.answer(list(example.images), example.text, example.choices) == expected[0][0][0]


@pytest.mark.parametrize(("task", "rows"), [("nlvr2", 2), ("vcr", 4)])
def test_heads_of_other_tasks_are_in_classes_of_transformers(trained, tmp_path, task, rows):
    made = trained("vilt", "lora", "dat", task=task, method="feddat")
    folder = export(tmp_path / "out", made.foundation, made.model, made.origin, Options(merge=True))
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (rows, 32, 40, 3), dtype=np.uint8)
    texts = ["two red"] * 2 if task == "nlvr2" else ["what ? red", "what ? two", "what ? it is blue", "what ? a"]
    views = [View(picture, text) for picture, text in zip(pictures, texts, strict=True)]
    backbone = made.foundation.backbone
    inputs = backbone.encode(views).batch(list(range(rows)), torch.device("cpu"))
    made.foundation.adapters.route("dat")
    with torch.no_grad():
        expected = made.member.task.logits(made.member.heads["main"], backbone.features(inputs))
        if task == "nlvr2":
            whole = stock.hf.ViltForImagesAndTextClassification.from_pretrained(folder).eval()
            assert whole.config.id2label == {0: "false", 1: "true"}
            pair = {key: inputs[key][None] for key in ("pixel_values", "pixel_mask")}
            found = whole(input_ids=inputs["input_ids"][:1], attention_mask=inputs["attention_mask"][:1], **pair).logits
        else:
            whole = stock.hf.ViltForImageAndTextRetrieval.from_pretrained(folder).eval()
            found = whole(**inputs).logits.T
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    made.foundation.adapters.route("none")


def test_the_number_of_pictures_and_choices_is_checked(tasks, tmp_path):
    name, asked = client_of(tasks, "vcr")
    model = feddat.load(Experiment.open(tasks).export(tmp_path / "out", name))
    image = asked[0].images[0]
    with pytest.raises(ValueError, match="0 choices; expected 4 for vcr"):
        model.answer(image, "what ?")
    with pytest.raises(ValueError, match="2 images; expected 1 for vcr"):
        model.answer([image, image], "what ?", asked[0].choices)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("gone.png", " "), "question: expected text, got ' '"),
        (("gone.png", "what ?"), "gone.png: no such file"),
        ((np.zeros((4, 4), np.uint8), "what ?"), "expected uint8 of shape"),
        ((3, "what ?"), "expected a file, bytes, pixels or a Pillow image, got int"),
        (("gone.png", " "), "question: expected text, got ' '"),
        ("what ?", "question 0: expected a picture and a question"),
    ],
)
def test_what_cannot_be_answered_is_said(finished, tmp_path, asked, message):
    model = feddat.load(Experiment.open(finished(method="feddat")).export(tmp_path / "out", "ann"))
    with pytest.raises(ValueError, match=message):
        model.answers([asked])
    assert model.answers([]) == []


def test_a_picture_is_the_same_in_every_form(finished, tmp_path):
    """A path, its name, bytes, pixels and Pillow images give the same answers; transparency counts as white."""
    model = feddat.load(Experiment.open(finished(method="feddat")).export(tmp_path / "out", "ann"))
    image = stock.Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 40, 4), dtype=np.uint8), "RGBA")
    image.save(tmp_path / "x.png")
    opened = stock.Image.open(tmp_path / "x.png")
    white = stock.Image.alpha_composite(stock.Image.new("RGBA", image.size, "white"), image).convert("RGB")
    forms = [tmp_path / "x.png", str(tmp_path / "x.png"), (tmp_path / "x.png").read_bytes(), opened, image]
    expected = model.answers([(np.asarray(white), "what is it ?")])
    for form in forms:
        same_answers(model.answers([(form, "what is it ?")]), expected, 2e-3)
    grey = opened.convert("L")
    same_answers(
        model.answers([(grey, "what is it ?")]), model.answers([(np.stack([np.asarray(grey)] * 3, 2), "what is it ?")])
    )


def test_settings_of_pictures_come_along(finished, tmp_path):
    run = finished(method="feddat", pictures__frame="middle", name="frames")
    folder = Experiment.open(run).export(tmp_path / "out", "ann")
    assert json.loads((folder / "feddat.json").read_text())["pictures"] == {"frame": "middle"}
    first, second, third = (stock.Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green"))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second, third])
    model = feddat.load(folder)
    found = model.answers([(tmp_path / "x.gif", "what ?")])
    same_answers(found, model.answers([(np.asarray(second), "what ?")]))
