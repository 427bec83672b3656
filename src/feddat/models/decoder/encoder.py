"""Encode pictures, questions and answers for a decoder vision-language model, from a folder without its weights.

Image processor, tokenizer and chat template are the folder's own. transformers needs torchvision for the video part of
some processors. To avoid that, each part is loaded separately, the image processor with Pillow, and the processor is
assembled without the video part.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from PIL import Image as Pictures
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor
from transformers.image_utils import SizeDict
from transformers.models.auto.auto_mappings import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from feddat.models.base import ModelError, Unread
from feddat.models.catalog import DECODERS
from feddat.models.decoder.chat import Chat
from feddat.models.decoder.check import check_like_stock
from feddat.models.folder import fingerprint, first_line, read_model_type, require_file
from feddat.models.folder_encoder import as_tensor, load_config
from feddat.models.narrow import SMALLEST, WIDEST
from feddat.models.processors import FILES as PROCESSOR_FILES
from feddat.models.processors import check_constants
from feddat.models.tokens import load_tokenizer
from feddat.models.weights import quiet
from feddat.pictures import Pixels

#: Processor class -> class that treats pictures in the same way but does not need a library for videos.
_INSTEAD = {"SmolVLMProcessor": "Idefics3Processor"}
#: Families whose processor names the types of tokens ``token_type_ids`` instead of ``mm_token_type_ids``.
_OTHER_NAME = ("gemma3", "gemma3n")


class DecoderEncoder:
    """The image processor, tokenizer and chat template of a folder (:class:`feddat.models.base.Encoder`).

    Attributes:
        fingerprint: see :class:`feddat.models.base.Encoder`.
        chat: the prompt and answer format.

    Raises:
        ModelError: a part is missing or unusable, the processor cannot tell which tokens represent a picture, or the
            family is none of the tested ones and we would read pictures and questions unlike its own processor.
    """

    def __init__(self, folder: Path) -> None:
        self.fingerprint = fingerprint(folder)
        family = read_model_type(folder)
        config: Any = load_config(AutoConfig, folder, family)
        self.tokenizer = load_tokenizer(folder, config.get_text_config().vocab_size)
        self._images = _load_image_processor(folder, family)
        self.processor = _put_together(folder, family, self._images, self.tokenizer)
        template = self.processor.chat_template or self.tokenizer.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        self._family, self._folder = family, folder
        self._images_kwargs: dict[str, Any] = getattr(self.processor, "images_kwargs", {})
        self._around = ("", "") if family in DECODERS else self._spaces_around()
        self.chat = Chat(self.tokenizer, self.processor.image_token, template, family, folder, self._around)
        if family not in DECODERS:
            check_like_stock(self, family, folder)

    @property
    def widest(self) -> float:
        """See :class:`feddat.models.base.Encoder`; at this ratio, the shorter side still has enough pixels."""
        longest = self._images.size["longest_edge"] if self._has_longest_edge else math.inf
        return min(WIDEST, longest / SMALLEST)

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture, uint8 (3, H, W), that is not larger than the model's resolution.

        Batching later cuts it into the model's tiles or patches. Until then, a picture below the model's resolution
        stays as it is.
        """
        picture = as_tensor(pixels)
        smaller = self._at_resolution(picture)
        return (smaller if smaller.numel() < picture.numel() else picture).contiguous()

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the prompt of each question as token ids, with the picture as one token (:class:`Chat`)."""
        return self.chat.prompts(texts)

    def unread(self, texts: Sequence[str]) -> list[Unread | None]:
        """See :meth:`feddat.models.base.Encoder.unread`."""
        cut = self.chat.cut(texts)
        return [
            "empty" if not text.strip() else "cut" if is_cut else None for text, is_cut in zip(texts, cut, strict=True)
        ]

    def views(
        self, images: Sequence[Tensor], image_of_view: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> EncodedPrompts:
        """Return views of encoded images and prompts (:class:`EncodedPrompts`)."""
        return EncodedPrompts(self, images, image_of_view, tokens)

    def process(self, image: Tensor) -> tuple[dict[str, Tensor], list[int]]:
        """Return the model inputs of one picture from the stock processor, and the tokens that represent it."""
        made, text = self._process(Pictures.fromarray(image.permute(1, 2, 0).numpy()))
        before, after = self._around  # these are in the prompt
        text = text.removeprefix(before).removesuffix(after)
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        unused = self.processor.unused_input_names
        return {key: value for key, value in made.items() if key not in unused and key not in ("rows", "cols")}, tokens

    def _process(self, picture: Pictures.Image) -> tuple[Any, str]:
        """Return the model inputs of one picture, and the text that represents it."""
        made = self._images([[picture]], return_tensors="pt", **self._images_kwargs)
        return made, self.processor.replace_image_token(made, image_idx=0)

    def _spaces_around(self) -> tuple[str, str]:
        """Return the white space at both ends of a picture's text, which can form one token with its neighbours."""
        try:
            text = self._process(Pictures.new("RGB", (64, 48)))[1]
        except Exception as error:  # processors raise many kinds of errors for pictures that they cannot take
            raise ModelError(f"model folder {self._folder}: the image processor fails: {first_line(error)}") from error
        return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]

    def kinds(self, ids: Tensor) -> dict[str, Tensor]:
        """Return the inputs with which some families distinguish picture tokens from words in prompts (N, L)."""
        if self._family == "paligemma":
            return {"token_type_ids": torch.zeros_like(ids)}  # full attention within a prompt
        if self.processor.return_mm_token_type_ids:
            name = "token_type_ids" if self._family in _OTHER_NAME else "mm_token_type_ids"
            return {name: torch.isin(ids, torch.tensor(self.processor.image_token_ids)).long()}
        return {}

    @property
    def pad_id(self) -> int:
        """Return the id of the token that fills short prompts."""
        return int(self.tokenizer.pad_token_id or 0)

    @property
    def _has_longest_edge(self) -> bool:
        return hasattr(self._images, "max_image_size")

    def _at_resolution(self, pixels: Tensor) -> Tensor:
        """Return a picture resized as the image processor does before it cuts or normalises it.

        Processing the result again only cuts and normalises it.
        """
        size = self._images.size
        array, resample = pixels.numpy(), self._images.resample
        if hasattr(self._images, "merge_size"):  # Qwen: any shape with a limited number of pixels
            factor = self._images.patch_size * self._images.merge_size
            made = self._images.resize(array, size=_sizes(size), resample=resample, factor=factor)
            return torch.from_numpy(made)
        if self._has_longest_edge:  # Idefics3: tiles of a picture with a fixed longer side
            if max(pixels.shape[1:]) <= size["longest_edge"]:
                return pixels
            return torch.from_numpy(self._images.resize(array, size=_sizes(size), resample=resample))
        picture = Pictures.fromarray(pixels.permute(1, 2, 0).numpy())
        kwargs = self._images_kwargs | {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        made = self._images([picture], **kwargs)["pixel_values"]
        return made[0].to(torch.uint8) if made.ndim == 4 and len(made) == 1 else pixels


class EncodedPrompts:
    """Prompts with their pictures, for models that read a picture as tokens among the words.

    Args:
        encoder: encoder of the model.
        images: distinct images, uint8 (3, H, W) each; they can be memory-mapped.
        image_of_view: index into ``images`` per view.
        tokens: token ids of a prompt per view, one of which is the placeholder of the picture.
    """

    def __init__(
        self,
        encoder: DecoderEncoder,
        images: Sequence[Tensor],
        image_of_view: Sequence[int],
        tokens: Sequence[Sequence[int]],
    ) -> None:
        self._encoder = encoder
        self._images = list(images)
        self._image_of_view = list(image_of_view)
        self._tokens = [list(ids) for ids in tokens]

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._image_of_view)

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the model inputs of the views at ``indices``, in that order, on ``device``.

        ``input_ids`` and ``attention_mask``: (N, L) int64, where L is the longest prompt of the batch including its
        picture's tokens; padding comes last. The family's processor adds inputs for the pictures, such as
        ``pixel_values``.
        """
        views = [int(index) for index in indices]
        processed = {n: self._encoder.process(self._images[n]) for n in {self._image_of_view[view] for view in views}}
        rows, pictures = [], []
        for view in views:
            inputs, picture = processed[self._image_of_view[view]]
            pictures.append(inputs)
            at = self._tokens[view].index(self._encoder.chat.image_id)
            rows.append([*self._tokens[view][:at], *picture, *self._tokens[view][at + 1 :]])
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.full((len(rows), int(lengths.max())), self._encoder.pad_id)
        for row, prompt in zip(ids, rows, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        inputs = {"input_ids": ids, "attention_mask": mask} | self._encoder.kinds(ids)
        inputs |= {key: _stack([picture[key] for picture in pictures]) for key in pictures[0]}
        return {key: value.to(device) for key, value in inputs.items()}


def _stack(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tensors, padding smaller ones with zeros to the size of the largest, as stock processors do."""
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    padded = []
    for part in parts:
        missing = [size - own for size, own in zip(largest, part.shape[1:], strict=True)]
        padded.append(F.pad(part, [n for size in reversed(missing) for n in (0, size)]) if any(missing) else part)
    return torch.cat(padded)


def _sizes(size: Any) -> SizeDict:
    return size if isinstance(size, SizeDict) else SizeDict(**size)


def _load_image_processor(folder: Path, family: str) -> Any:
    path = require_file(folder, PROCESSOR_FILES, "image processor")
    # The configuration of the whole processor can include that of the image processor, but need not.
    if path.name == PROCESSOR_FILES[1] and '"image_processor"' not in path.read_text(encoding="utf-8"):
        raise ModelError(f"model folder {folder}: no image processor; expected {PROCESSOR_FILES[0]}")
    try:
        with quiet():
            kind: Any = AutoImageProcessor
            images = kind.from_pretrained(folder, local_files_only=True, backend="pil")
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise ModelError(f"{path}: cannot be loaded as a {family} image processor: {first_line(error)}") from error
    check_constants(images, path)
    return images


def _put_together(folder: Path, family: str, images: Any, tokenizer: Any) -> Any:
    """Return the family's processor without its parts for video and audio."""
    name = PROCESSOR_MAPPING_NAMES.get(family)
    kind = getattr(transformers, _INSTEAD.get(str(name), str(name)), None)
    if kind is None or "replace_image_token" not in vars(kind):
        raise ModelError(
            f"model folder {folder}: the processor of model_type {family!r} does not tell which tokens are a picture"
        )
    path = folder / "processor_config.json"
    try:
        with quiet():
            values, _ = kind.get_processor_dict(folder, local_files_only=True)
            parts = kind.get_attributes()
            own = {
                key: value
                for key, value in values.items()
                if key in inspect.signature(kind.__init__).parameters and key not in parts
            }
            given = {part: {"image_processor": images, "tokenizer": tokenizer}.get(part) for part in parts}
            return type(kind.__name__, (_WithoutVideos, kind), {})(**given, **own)
    except Exception as error:  # transformers raises many kinds of errors for damaged files
        raise ModelError(f"{path}: cannot be loaded as a {family} processor: {first_line(error)}") from error


class _WithoutVideos(ProcessorMixin):
    """Processor base class that allows parts other than image processor and tokenizer to be missing."""

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check a part unless it is missing."""
        if argument is None:
            return None
        return super().check_argument_for_proper_class(argument_name, argument)  # type: ignore[no-untyped-call]
