import json

import numpy as np
import pytest
import torch

from feddat.example import View
from feddat.models.albef.convert import MEAN, STD
from feddat.models.albef.encoder import normalise_question
from feddat.models.base import ModelError
from feddat.models.catalog import load_encoder


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What's the bird's color?", "whats the birds color"),
        ("Left-hand side / right (or both)?", "left hand side   right or both"),
        ("Is it?  ", "is it"),
        ("word " * 60, " ".join(["word"] * 50)),
    ],
)
def test_questions_lose_case_and_punctuation_as_published(question, expected):
    assert normalise_question(question) == expected


def test_questions_end_without_sep_and_answers_with_it(backbone):
    tokenizer = backbone.encoder.tokenizer
    words = tokenizer.convert_tokens_to_ids
    assert backbone.encoder.texts(["Is the circle red?"]) == [words(["[CLS]", "is", "the", "circle", "red"])]
    assert backbone.answer_tokens(["red", "dark"]) == [
        words(["[CLS]", "red", "[SEP]"]),
        words(["[CLS]", "d", "##a", "##r", "##k", "[SEP]"]),
    ]
    assert backbone.answer_text(words(["[CLS]", "red", "square", "[SEP]"])) == "red square"


def test_long_texts_are_cut_to_the_position_embeddings(backbone):
    assert len(backbone.encoder.texts(["red " * 30])[0]) == 16
    (answer,) = backbone.answer_tokens(["red " * 30])
    assert (len(answer), answer[-1]) == (16, backbone.encoder.tokenizer.sep_token_id)


def test_images_become_squares(backbone):
    image = np.full((20, 50, 3), 255, dtype=np.uint8)
    batch = backbone.encode([View(image, "red")]).batch([0], torch.device("cpu"))
    white = ((1 - torch.tensor(MEAN)) / torch.tensor(STD)).view(1, 3, 1, 1)
    torch.testing.assert_close(batch["pixel_values"], white.expand(1, 3, 32, 32))


def test_bad_configurations_are_named(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"fusion_layer": 9}))
    with pytest.raises(ModelError, match=r"config.json: ALBEF: fusion_layer 9"):
        load_encoder(str(folder))
    path.write_text(json.dumps(config | {"text_config": 3}))
    with pytest.raises(ModelError, match=r"config.json: cannot be read as a configuration of ALBEF"):
        load_encoder(str(folder))
