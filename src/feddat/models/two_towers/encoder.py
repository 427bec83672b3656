"""Encode images and texts for CLIP or SigLIP, from a model folder without its weights.

Sizes and constants come from the folder's image processor. All images get the same size. SigLIP was trained on texts
padded to full length, and attends to the padding (Zhai et al., arXiv 2303.15343). CLIP's padding is masked.

SigLIP and SigLIP 2 (Tschannen et al., arXiv 2502.14786, same ``model_type``) were trained on lower-case text, SigLIP
also without punctuation. Only some folders have a ``tokenizer.json`` that does this; SigLIP 2's published tokenizer,
which is Gemma's, does not. So texts are always cleaned here.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers.normalizers import Lowercase
from torch import Tensor
from transformers import AutoConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from feddat.models.base import ModelError
from feddat.models.folder_encoder import FolderEncoder, load_config
from feddat.pictures import Pixels

_PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}


class TwoTowersEncoder(FolderEncoder):
    """The image processor and tokenizer of a CLIP or SigLIP folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: configuration, tokenizer or image processor is missing or unusable, or images do not get the model's
            size.
    """

    def __init__(self, folder: Path) -> None:
        config: Any = load_config(AutoConfig, folder, "CLIP or SigLIP")
        text, vision = config.text_config, config.vision_config
        self._fills_texts = config.model_type == "siglip"
        super().__init__(
            folder,
            _PROCESSORS[config.model_type],
            config.model_type,
            text.vocab_size,
            text.max_position_embeddings,
            (vision.patch_size, vision.patch_size),
            tokenizer_from_json=self._fills_texts,  # transformers' class for SigLIP needs sentencepiece
        )
        if self._fills_texts and self.tokenizer.pad_token_id is None:
            raise ModelError(f"model folder {folder}: tokenizer has no padding token; SigLIP needs padded texts")
        self._clean = _cleaning(folder) if self._fills_texts else None
        self._kept, self._crops = _sizes(self._processor, folder)
        expected: int = vision.image_size
        if self._kept != (expected, expected):
            raise ModelError(
                f"model folder {folder}: image processor makes {self._kept[0]} x {self._kept[1]} pixels, "
                f"but config.json requires {expected} x {expected}"
            )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if not self._crops:
            return self._kept
        shorter: int = self._processor.size["shortest_edge"]
        # As in the stock processor, the longer side is rounded down.
        return (shorter, shorter * width // height) if height < width else (shorter * height // width, shorter)

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, S, S)."""
        picture = super().image(pixels)
        height, width = self._kept
        top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
        return picture[:, top : top + height, left : left + width].contiguous()

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, cut to full length; SigLIP's are also padded to full length."""
        ids = super().texts(texts)
        if not self._fills_texts:
            return ids
        padding: int = self.tokenizer.pad_token_id
        return [row + [padding] * (self._longest_text - len(row)) for row in ids]

    def _plain(self, text: str) -> str:
        return text if self._clean is None else self._clean(text)


def _cleaning(folder: Path) -> Callable[[str], str]:
    """Return the function with which SigLIP's own tokenizers clean texts; a ``tokenizer.json`` can lack this step.

    ``SiglipTokenizer`` converts texts to lower case, unless ``do_lower_case`` is false, and removes ASCII punctuation
    and repeated spaces. ``Siglip2Tokenizer`` (SigLIP 2) only converts texts to lower case.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    lowers, first = config.get("do_lower_case", True), config.get("tokenizer_class") == "SiglipTokenizer"
    lower, marks = Lowercase(), str.maketrans("", "", string.punctuation)

    def clean(text: str) -> str:
        text = lower.normalize_str(text) if lowers else text
        return " ".join(text.translate(marks).split()) if first else text

    return clean


def _sizes(processor: Any, folder: Path) -> tuple[tuple[int, int], bool]:
    """Return the size (height, width) of all images from a processor, and whether it crops them from larger ones.

    Raises:
        ModelError: the processor does not give all images the same size.
    """
    size, crop = processor.size or {}, processor.crop_size if getattr(processor, "do_center_crop", False) else None
    if processor.do_resize and crop is None and size.get("height"):
        return (size["height"], size["width"]), False
    if processor.do_resize and crop is not None and isinstance(size.get("shortest_edge"), int):
        if max(crop["height"], crop["width"]) > size["shortest_edge"]:
            raise ModelError(f"model folder {folder}: image processor: crop_size exceeds the shortest edge")
        return (crop["height"], crop["width"]), True
    raise ModelError(
        f"model folder {folder}: image processor: expected size of height and width, or shortest_edge and crop_size"
    )
