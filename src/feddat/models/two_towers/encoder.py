"""What happens to images and texts before CLIP or SigLIP sees them, from a model folder without its weights.

Sizes and constants are the folder's own processor's. All images get one size. SigLIP is trained on texts padded to full
length, whose padding counts (Zhai et al., arXiv 2303.15343); CLIP's padding is masked.

SigLIP and SigLIP 2 (Tschannen et al., arXiv 2502.14786, the same ``model_type``) are trained on text in lower case, the
first also without marks. Folders differ in whether ``tokenizer.json`` sees to that; SigLIP 2's published one, which is
Gemma's, does not. So it is done here in any case.
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
from feddat.models.folder_encoder import FolderEncoder
from feddat.pictures import Pixels

_PROCESSORS = {"clip": CLIPImageProcessorPil, "siglip": SiglipImageProcessorPil}


class TwoTowersEncoder(FolderEncoder):
    """The image processor and tokenizer of a CLIP or SigLIP folder (:class:`feddat.models.base.Encoder`).

    Raises:
        ModelError: tokenizer or image processor is missing or unusable, or gives other sizes than the model takes.
    """

    def __init__(self, folder: Path) -> None:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        text, vision = config.text_config, config.vision_config
        self._fills_texts = config.model_type == "siglip"
        super().__init__(
            folder,
            _PROCESSORS[config.model_type],
            config.model_type,
            text.vocab_size,
            text.max_position_embeddings,
            (vision.patch_size, vision.patch_size),
            tokenizer_from_json=self._fills_texts,  # transformers' class for SigLIP wants sentencepiece
        )
        if self._fills_texts and self.tokenizer.pad_token_id is None:
            raise ModelError(f"model folder {folder}: tokenizer without padding token; SigLIP reads padded texts")
        self._clean = _cleaning(folder) if self._fills_texts else None
        self._kept, self._crops = _sizes(self._processor, folder)
        expected: int = vision.image_size
        if self._kept != (expected, expected):
            raise ModelError(
                f"model folder {folder}: image processor gives {self._kept[0]} x {self._kept[1]} pixels; "
                f"config.json says {expected} x {expected}"
            )

    def _size(self, height: int, width: int) -> tuple[int, int]:
        if not self._crops:
            return self._kept
        shorter: int = self._processor.size["shortest_edge"]
        # The longer side is rounded down, as the stock processor does.
        return (shorter, shorter * width // height) if height < width else (shorter * height // width, shorter)

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, S, S)."""
        picture = super().image(pixels)
        height, width = self._kept
        top, left = (picture.shape[1] - height) // 2, (picture.shape[2] - width) // 2
        return picture[:, top : top + height, left : left + width].contiguous()

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids; SigLIP's are filled to full length, what exceeds it is cut."""
        ids = super().texts(texts)
        if not self._fills_texts:
            return ids
        padding: int = self.tokenizer.pad_token_id
        return [row + [padding] * (self._longest_text - len(row)) for row in ids]

    def _plain(self, text: str) -> str:
        return text if self._clean is None else self._clean(text)


def _cleaning(folder: Path) -> Callable[[str], str]:
    """Return what SigLIP's own tokenizers do to a text first, which ``tokenizer.json`` may leave out.

    SigLIP's (``SiglipTokenizer``) puts it in lower case, unless ``do_lower_case`` is false, and takes out the marks of
    ASCII and repeated spaces; SigLIP 2's (``Siglip2Tokenizer``) puts it in lower case.
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
    """Return the size of every image that leaves a processor, (height, width), and whether it is cut out of a larger.

    Raises:
        ModelError: the processor leaves images at sizes of their own.
    """
    size, crop = processor.size, processor.crop_size if getattr(processor, "do_center_crop", False) else None
    if processor.do_resize and crop is None and size.get("height"):
        return (size["height"], size["width"]), False
    if processor.do_resize and crop is not None and size.get("shortest_edge"):
        if max(crop["height"], crop["width"]) > size["shortest_edge"]:
            raise ModelError(f"model folder {folder}: image processor: crop_size exceeds the shortest edge")
        return (crop["height"], crop["width"]), True
    raise ModelError(
        f"model folder {folder}: image processor: expected size of height and width, or shortest_edge and crop_size"
    )
