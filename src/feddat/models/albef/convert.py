"""Convert published ALBEF checkpoints to model folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from torch import Tensor
from transformers import BertConfig, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from feddat.files import write_json
from feddat.models.albef.checkpoint import LoadReport, load_published, read_checkpoint
from feddat.models.albef.model import AlbefConfig, AlbefForQuestionAnswering
from feddat.models.base import ModelError
from feddat.models.folder import first_line, read_model_type
from feddat.models.tokens import load_tokenizer
from feddat.models.weights import quiet

#: Mean per channel of pixels in [0, 1]; mean and standard deviation are CLIP's, as in the published code.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
BICUBIC = 3
#: File in a model folder with the :class:`LoadReport` of its checkpoint.
REPORT = "conversion.json"


def convert(checkpoint: Path, bert: Path, folder: Path, image_size: int = 384) -> LoadReport:
    """Convert a published checkpoint (:mod:`feddat.models.albef.checkpoint`) to a model folder; return the report.

    The folder also contains the report.

    Args:
        checkpoint: ``.pth`` file, pretrained or fine-tuned for VQA.
        bert: folder of ``bert-base-uncased`` in Hugging Face layout; only its configuration and tokenizer are used.
        folder: folder to write; it must not exist, or be empty.
        image_size: side of the model's images in pixels; the published VQA models use 384.

    Raises:
        ModelError: a file is missing or does not fit, or ``folder`` is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ModelError(f"folder {folder}: already exists; expected a new or empty folder")
    if (model_type := read_model_type(bert)) != "bert":
        raise ModelError(f"{bert / 'config.json'}: model_type is {model_type!r}; expected 'bert'")
    try:
        text = BertConfig.from_pretrained(bert, local_files_only=True)
    except Exception as error:  # transformers raises many kinds of errors for values of wrong types
        raise ModelError(
            f"{bert / 'config.json'}: cannot be read as a BERT configuration: {first_line(error)}"
        ) from error
    tokenizer = load_tokenizer(bert, text.vocab_size)
    state = read_checkpoint(checkpoint)
    config = _configuration(state, text, image_size, checkpoint)
    with quiet():
        model = AlbefForQuestionAnswering(config)
        report = load_published(model, state, str(checkpoint))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        processor = ViTImageProcessorPil(
            size={"height": image_size, "width": image_size}, resample=BICUBIC, image_mean=MEAN, image_std=STD
        )
        processor.save_pretrained(folder)
    write_json(folder / REPORT, {"checkpoint": checkpoint.name} | asdict(report))
    return report


def _configuration(state: Mapping[str, Tensor], text: BertConfig, image_size: int, source: Path) -> AlbefConfig:
    """Return the configuration of a checkpoint's model: layer counts from the checkpoint, text settings from BERT."""
    blocks = _layers(state, r"visual_encoder\.blocks\.(\d+)\.mlp\.fc1\.weight", source)
    fusing = _layers(
        state, r"text_encoder\.(?:bert\.)?encoder\.layer\.(\d+)\.crossattention\.self\.query\.weight", source
    )
    projection = state["visual_encoder.patch_embed.proj.weight"]
    own_decoder = any(name.startswith("text_decoder.") for name in state)
    decoding = (
        _layers(state, r"text_decoder\.bert\.encoder\.layer\.(\d+)\.output\.dense\.weight", source)
        if own_decoder
        else fusing
    )
    vision = ViTConfig(
        hidden_size=projection.shape[0],
        num_hidden_layers=len(blocks),
        # As published: the same number as BERT, which has the same width.
        num_attention_heads=text.num_attention_heads,
        intermediate_size=state["visual_encoder.blocks.0.mlp.fc1.weight"].shape[0],
        image_size=image_size,
        patch_size=projection.shape[-1],
        layer_norm_eps=1e-6,
    )
    return AlbefConfig(vision_config=vision, text_config=text, fusion_layer=min(fusing), decoder_layers=len(decoding))


def _layers(state: Mapping[str, Tensor], pattern: str, source: Path) -> set[int]:
    """Return the numbers of the layers whose tensor names match ``pattern``."""
    found = {int(match[1]) for name in state if (match := re.fullmatch(pattern, name))}
    if not found:
        raise ModelError(f"checkpoint {source}: no tensor name matches {pattern}; expected an ALBEF checkpoint")
    return found
