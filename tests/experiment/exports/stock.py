"""Models built only from transformers and PEFT (except ALBEF), and what they compute for a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers as hf
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

#: Family -> class of transformers that adapters are put on.
CLASSES: dict[str, Any] = {
    "vilt": hf.ViltModel,
    "blip": hf.BlipForQuestionAnswering,
    "clip": hf.CLIPModel,
    "siglip": hf.SiglipModel,
}


class BertThenVilt(nn.Module):
    """ViLT behind BERT, as docs/models.md describes it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        parts = json.loads((folder / "config.json").read_text())["parts"]
        self.bert = hf.BertModel.from_pretrained(folder / parts["bert"], add_pooling_layer=False)
        self.vilt = hf.ViltModel.from_pretrained(folder / parts["vilt"])
        self.config = self.vilt.config


def load_base(family: str, folder: Path) -> nn.Module:
    """Return the model in a folder, in evaluation mode."""
    if family == "vilt-bert":
        return BertThenVilt(folder).eval()
    if family == "albef":  # transformers has no ALBEF
        from feddat.models.albef.model import AlbefForQuestionAnswering

        return AlbefForQuestionAnswering.from_pretrained(folder).albef.eval()
    kind = CLASSES.get(family, hf.AutoModelForImageTextToText)
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def features(family: str, model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Return the features that a classifier takes, (N, d)."""
    text = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    image = {"pixel_values": inputs["pixel_values"]}
    if family == "vilt":
        return model(**text, **image, pixel_mask=inputs["pixel_mask"]).pooler_output
    if family == "vilt-bert":
        words = model.bert(**text).last_hidden_state
        mask = text["attention_mask"]
        return model.vilt(
            inputs_embeds=words, attention_mask=mask, **image, pixel_mask=inputs["pixel_mask"]
        ).pooler_output
    words = model.text_model(**text).pooler_output
    picture = model.vision_model(**image).pooler_output
    if family == "clip":
        words, picture = model.text_projection(words), model.visual_projection(picture)
    words, picture = (F.normalize(part, dim=-1) * part.shape[-1] ** 0.5 for part in (words, picture))
    return torch.cat([words, picture, words * picture], dim=-1)


def token_logits(family: str, model: Any, head: Any, inputs: dict[str, Tensor], answer: Tensor) -> Tensor:
    """Return logits of an answer's tokens after its start, (1, L - 1, V); for decoders, of the first one, (1, 1, V)."""
    if family not in ("blip", "albef"):
        return model(**inputs, use_cache=False).logits[:, -1:]
    text = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    if family == "albef":
        states = model.encode(**text, pixel_values=inputs["pixel_values"])
        ids = answer[:, :-1]
        return head(model.decode(ids, torch.ones_like(ids), states, text["attention_mask"]))
    image = model.vision_model(inputs["pixel_values"]).last_hidden_state
    states = model.text_encoder(**text, encoder_hidden_states=image).last_hidden_state
    decoder = model.text_decoder
    written = decoder.bert(answer[:, :-1], encoder_hidden_states=states, is_decoder=True, use_cache=False)
    return head(written.last_hidden_state) if head is not None else decoder.cls(written.last_hidden_state)


def classifier(folder: Path, width: int) -> nn.Module:
    """Return the classifier in ``head.safetensors``, as docs/export.md describes it."""
    state = load_file(folder / "head.safetensors")
    head = nn.Sequential(
        nn.Linear(width, 2 * width), nn.LayerNorm(2 * width), nn.GELU(), nn.Linear(2 * width, len(state["3.bias"]))
    )
    head.load_state_dict(state)
    return head


def picture(path: Path) -> Image.Image:
    """Return the image in a file."""
    return Image.open(path).convert("RGB")


def example(image: Path, text: str) -> Any:
    """Return a question about an image file, as predictions take it."""
    from feddat.example import Example

    return Example("0", (image,), text)
