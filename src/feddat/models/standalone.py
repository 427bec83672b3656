"""Write a trained model as an ordinary transformers folder, with adapters merged and with the head if a class has one.

| family | class | head in it |
| --- | --- | --- |
| ViLT | ``ViltForQuestionAnswering``; for pairs of images ``ViltForImagesAndTextClassification``; for candidates \
``ViltForImageAndTextRetrieval`` | all except heads made from words |
| BLIP, ALBEF | ``BlipForQuestionAnswering``; ALBEF's own | the vocabulary head |
| CLIP, SigLIP, ViLT behind BERT | ``CLIPModel``, ``SiglipModel``; both parts | none |
| decoders | the folder's own | the model's own, which does not train |

A head that no class can hold is saved beside the model. The source folder is loaded again, so that the result does not
depend on the number format of the run.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForImageTextToText,
    BertModel,
    BlipForQuestionAnswering,
    CLIPModel,
    SiglipModel,
    ViltForImageAndTextRetrieval,
    ViltForImagesAndTextClassification,
    ViltForMaskedLM,
    ViltForQuestionAnswering,
)

from feddat.models.albef.model import AlbefForQuestionAnswering
from feddat.models.folder import ENCODING_FILES, read_model_type
from feddat.models.two_towers.backbone import TwoTowers
from feddat.models.vilt.backbone import read_vilt
from feddat.models.vilt_bert.backbone import ViltBertModel
from feddat.models.vilt_bert.parts import part_folders, write_vilt_bert
from feddat.models.weights import load_weights, quiet

#: Kind of a head: ``classifier`` and ``pair`` map pooled features of one image or of a pair to classes, ``scorer`` maps
#: them to one number, and ``vocabulary`` maps states to a vocabulary. Transformers has no class for ``other``.
Shape = Literal["classifier", "pair", "scorer", "vocabulary", "other"]


@dataclass(frozen=True, slots=True)
class Head:
    """A trained head.

    Attributes:
        shape: kind of the head.
        state: its tensors by name.
        labels: names of its classes; empty for a vocabulary.
    """

    shape: Shape
    state: Mapping[str, Tensor]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standalone:
    """A model loaded again from its folder.

    Attributes:
        whole: the model to save.
        part: its part that corresponds to a backbone's ``model``, with the same parameter names.
        prefix: prefix of the head's tensor names in the weights; ``None`` if the weights have no head.
    """

    whole: Any
    part: nn.Module
    prefix: str | None = None


def stock_class(model: nn.Module) -> type | None:
    """Return the transformers class with the same parameter names as a backbone's model; ``None`` if there is none."""
    if isinstance(model, TwoTowers):
        return CLIPModel if model.config.model_type == "clip" else SiglipModel
    found = type(model)
    return found if found.__module__.startswith("transformers.") else None


def save_standalone(
    source: Path,
    folder: Path,
    merge: Callable[[nn.Module], None],
    head: Head | None,
    untied: bool = False,
    dtype: torch.dtype = torch.float32,
) -> str | None:
    """Write a model folder whose weights were changed by ``merge``.

    Args:
        source: folder of the original model.
        folder: folder to write into.
        merge: function that changes the model in place.
        head: head to put into the model, if its class can hold such a head.
        untied: keep the original vocabulary head, even if it shares its matrix with word embeddings that changed.
        dtype: dtype of the saved weights.

    Returns:
        The prefix of the head's tensor names in the weights; ``None`` if the weights have no head.

    Raises:
        ModelError: the source cannot be used.
    """
    family = read_model_type(source)
    if family == "vilt-bert":
        _save_vilt_bert(source, folder, merge, dtype)
        return None
    made = _READERS.get(family, _read_decoder)(source, head, untied)
    merge(made.part)
    _save(made.whole, folder, dtype)
    copy_processor(source, folder)
    return made.prefix


#: Further files that other software looks for.
_OTHERS_READ = ("tokenizer.model", "sentencepiece.bpe.model", "video_preprocessor_config.json")


def copy_processor(source: Path, folder: Path) -> None:
    """Copy the files that determine how pictures and texts are encoded for the model."""
    for name in (*ENCODING_FILES, *_OTHERS_READ):
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)


def _read_vilt(source: Path, head: Head | None, untied: bool = False) -> Standalone:
    vilt, words = read_vilt(source)
    config = copy.deepcopy(vilt.config)
    if head is None or head.shape not in _VILT_HEADS:
        if words is None:
            return Standalone(vilt, vilt)
        masked = _around(ViltForMaskedLM, config, vilt)
        masked.mlm_score = words
        return Standalone(masked, vilt)
    kind, attribute = _VILT_HEADS[head.shape]
    if head.shape == "pair":
        _repeat_image_type(vilt, config)
    config.num_labels = len(head.labels)
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: index for index, label in enumerate(head.labels)}
    whole = _around(kind, config, vilt)
    getattr(whole, attribute).load_state_dict(head.state, assign=True)
    return Standalone(whole, vilt, f"{attribute}.")


#: Kind of a head -> ViLT class of transformers that can hold it, and attribute of the head in that class.
_VILT_HEADS: Mapping[str, tuple[type[Any], str]] = {
    "classifier": (ViltForQuestionAnswering, "classifier"),
    "pair": (ViltForImagesAndTextClassification, "classifier"),
    "scorer": (ViltForImageAndTextRetrieval, "rank_output"),
}


def _around(kind: type[Any], config: Any, vilt: nn.Module) -> Any:
    """Return a model of a class around a ViLT; its other weights are still empty."""
    with torch.device("meta"):
        whole = kind(config)
    whole.vilt = vilt
    return whole.eval()


def _repeat_image_type(vilt: Any, config: Any) -> None:
    """Give a second image the token type of the first. The class of transformers uses a separate type per image."""
    config.num_images = 2
    config.modality_type_vocab_size = vilt.config.modality_type_vocab_size = 3
    types = vilt.embeddings.token_type_embeddings.weight.detach()
    vilt.embeddings.token_type_embeddings = nn.Embedding(3, types.shape[1], _weight=types[[0, 1, 1]])


def _read_blip(source: Path, head: Head | None, untied: bool) -> Standalone:
    blip = load_weights(BlipForQuestionAnswering, source, "BLIP for question answering")
    words = blip.text_decoder.cls.predictions
    written = head is not None and head.shape == "vocabulary"
    if untied or written:
        _untie(blip, words.decoder, blip.text_decoder.bert.embeddings.word_embeddings)
    if head is None or not written:
        return Standalone(blip, blip)
    # The class also ties its two biases; it uses only the decoder's.
    words.decoder.bias = nn.Parameter(head.state["1.bias"].clone(), requires_grad=False)
    words.bias.data.copy_(head.state["1.bias"])
    words.decoder.weight.data.copy_(head.state["1.weight"])
    transform = {key.removeprefix("0."): value for key, value in head.state.items() if key.startswith("0.")}
    words.transform.load_state_dict(transform)
    return Standalone(blip, blip, "")


def _read_albef(source: Path, head: Head | None, untied: bool) -> Standalone:
    albef = load_weights(AlbefForQuestionAnswering, source, "ALBEF")
    if head is None or head.shape != "vocabulary":
        return Standalone(albef, albef.albef)
    albef.head.load_state_dict(head.state)
    return Standalone(albef, albef.albef, "")


def _read_towers(source: Path, head: Head | None, untied: bool) -> Standalone:
    kind = CLIPModel if read_model_type(source) == "clip" else SiglipModel
    stock = load_weights(kind, source, kind.__name__)
    return Standalone(stock, stock)


def _read_decoder(source: Path, head: Head | None, untied: bool) -> Standalone:
    stock = load_weights(AutoModelForImageTextToText, source, read_model_type(source))
    if untied:
        _untie(stock, stock.get_output_embeddings(), stock.get_input_embeddings())
    return Standalone(stock, stock, "" if head is not None and head.shape == "vocabulary" else None)


_READERS: Mapping[str, Callable[[Path, Head | None, bool], Standalone]] = {
    "vilt": _read_vilt,
    "blip": _read_blip,
    "albef": _read_albef,
    "clip": _read_towers,
    "siglip": _read_towers,
}


def _save_vilt_bert(source: Path, folder: Path, merge: Callable[[nn.Module], None], dtype: torch.dtype) -> None:
    folders = part_folders(source)
    vilt = _read_vilt(folders[0], None)
    bert = load_weights(BertModel, folders[1], "BERT", add_pooling_layer=False)
    merge(ViltBertModel(bert, vilt.part))
    for name, whole, read_from in (("vilt", vilt.whole, folders[0]), ("bert", bert, folders[1])):
        (folder / name).mkdir()
        _save(whole, folder / name, dtype)
        copy_processor(read_from, folder / name)
    write_vilt_bert(folder, Path("vilt"), Path("bert"))


def _save(whole: Any, folder: Path, dtype: torch.dtype) -> None:
    with quiet():
        whole.to(dtype).save_pretrained(folder)


def _untie(whole: Any, words: Any, inputs: Any) -> None:
    """Give a vocabulary head its own matrix if it shares that of the word embeddings."""
    if words.weight is inputs.weight:
        words.weight = nn.Parameter(words.weight.detach().clone(), requires_grad=False)
    for config in (whole.config, whole.config.get_text_config()):
        config.tie_word_embeddings = False
