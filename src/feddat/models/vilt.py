"""ViLT as a frozen backbone, from any Hugging Face folder in the layout of ``dandelin/vilt-b32-mlm``.

The folder holds ``config.json``, ``model.safetensors`` (``ViltModel``, or ``ViltForMaskedLM``, whose masked-word head
can start a client's answer head), tokenizer files and ``preprocessor_config.json``. Nothing is downloaded.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, ViltForMaskedLM, ViltModel
from transformers.models.vilt.image_processing_pil_vilt import ViltImageProcessorPil
from transformers.models.vilt.modeling_vilt import ViltMLMHead
from transformers.utils import logging

from feddat.example import DataError, Image, View
from feddat.models.base import ModelError
from feddat.models.encoding import EncodedImageTexts
from feddat.models.fast_vilt import make_fast
from feddat.models.folder import read_model_type, require_file
from feddat.models.images import read_rgb

__all__ = ["ViltBackbone", "make_fast"]

_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


class ViltBackbone:
    """A frozen ViLT behind :class:`feddat.models.base.Backbone`.

    Args:
        folder: Hugging Face model folder.
        name: how reports call the model; default: the folder's path.

    Raises:
        ModelError: the folder is not a complete ViLT folder.
    """

    family = "vilt"

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        model_type = read_model_type(self.folder)
        if model_type != "vilt":
            raise ModelError(f"{self.folder / 'config.json'}: model_type is {model_type!r}; expected 'vilt'")
        vilt, self._word_scores = _load_weights(self.folder)
        self._config = vilt.config
        height, width = vilt.embeddings.patch_embeddings.patch_size
        self._patch_size = (height, width)
        self._tokenizer = _load_tokenizer(self.folder, self._config.vocab_size)
        self._processor = _load_processor(self.folder)
        self.model: nn.Module = make_fast(vilt).requires_grad_(False).train(False)
        self.feature_dim: int = self._config.hidden_size

    def encode(self, views: Sequence[View]) -> EncodedImageTexts:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Texts longer than the model's position embeddings are cut.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        position: dict[Path | int, int] = {}
        images: list[Tensor] = []
        image_of_view = []
        for view in views:
            # `views` keeps arrays alive, so that an id stays one object's.
            key = view.image if isinstance(view.image, Path) else id(view.image)
            if key not in position:
                position[key] = len(images)
                images.append(self._resize(view.image))
            image_of_view.append(position[key])
        texts = [view.text for view in views]
        limit = self._config.max_position_embeddings
        tokens = self._tokenizer(texts, truncation=True, max_length=limit)["input_ids"] if texts else []
        processor = self._processor
        return EncodedImageTexts(
            images,
            image_of_view,
            tokens,
            pad_token=self._tokenizer.pad_token_id or 0,
            patch_size=self._patch_size,
            mean=processor.image_mean if processor.do_normalize else (0.0, 0.0, 0.0),
            std=processor.image_std if processor.do_normalize else (1.0, 1.0, 1.0),
        )

    def _resize(self, image: Image) -> Tensor:
        """Return an image at model resolution, uint8 (3, H, W)."""
        pixels = read_rgb(image)
        try:
            resized = self._processor(
                pixels, do_rescale=False, do_normalize=False, do_pad=False, input_data_format="channels_last"
            )["pixel_values"][0]
        except ValueError:
            name = image if isinstance(image, Path) else "in memory"
            raise DataError(
                f"image {name}: {pixels.shape[1]} x {pixels.shape[0]} pixels are too narrow: "
                f"resized, the shorter side has less than one patch of {self._patch_size[0]} pixels"
            ) from None
        return torch.from_numpy(resized.copy())

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the pooled first token, shape (views, feature_dim), float."""
        pooled: Tensor = self.model(**inputs).pooler_output
        return pooled if pooled.dtype == torch.float64 else pooled.float()

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a new trainable classifier over ``answers``, shape (N, feature_dim) to (N, answers).

        It is the masked-word head with one output per answer: the word-embedding row and bias of the answer's token,
        or their mean over several word pieces. ``None`` where the folder has no masked-word head.

        Raises:
            ValueError: an answer has no tokens.
        """
        if self._word_scores is None:
            return None
        decoder = self._word_scores.decoder
        classifier = nn.Linear(self.feature_dim, len(answers))
        with torch.no_grad():
            for i, answer in enumerate(answers):
                pieces = self._tokenizer(answer, add_special_tokens=False)["input_ids"]
                if not pieces:
                    raise ValueError(f"answer {answer!r} has no words to start a head from")
                classifier.weight[i] = decoder.weight[pieces].mean(dim=0)
                classifier.bias[i] = decoder.bias[pieces].mean()
        transform = copy.deepcopy(self._word_scores.transform)
        return nn.Sequential(transform, classifier).cpu().requires_grad_(True)

    def save(self, folder: Path) -> None:
        """Write the model folder in Hugging Face layout: a copy of its source, as nothing in it trains."""
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in ("*.json", "*.txt", "*.safetensors"):
            for path in self.folder.glob(pattern):
                if not (folder / path.name).exists() or not path.samefile(folder / path.name):
                    shutil.copyfile(path, folder / path.name)


def _load_weights(folder: Path) -> tuple[ViltModel, ViltMLMHead | None]:
    """Return the transformer, and the masked-word head where the folder has its weights, both float32."""
    index = "model.safetensors.index.json"
    first = require_file(folder, ("model.safetensors", index), "weights")
    shards = sorted(folder.glob("model-*.safetensors")) if first.name == index else [first]
    try:
        # The published checkpoints call the bias of the word scores `mlm_score.bias`, newer ones `.decoder.bias`.
        old_bias = None
        has_words = False
        for shard in shards:
            with safe_open(shard, framework="pt") as file:
                names = set(file.keys())
                has_words |= any(name.startswith("mlm_score.") for name in names)
                if "mlm_score.bias" in names:
                    old_bias = file.get_tensor("mlm_score.bias")
        with _quiet():
            kind: Any = ViltForMaskedLM if has_words else ViltModel
            model, report = kind.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # they come back in the report
                output_loading_info=True,
            )
    except Exception as error:  # transformers and safetensors raise many kinds for damaged or unfitting files
        raise ModelError(f"model folder {folder}: weights cannot be loaded as ViLT: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if has_words and missing == ["mlm_score.decoder.bias"] and old_bias is not None:
        model.mlm_score.decoder.bias.data.copy_(old_bias)
        missing = []
    if missing:
        raise ModelError(f"model folder {folder}: weights lack {_some(missing)}")
    if report["mismatched_keys"]:
        unfit = sorted(name for name, *_ in report["mismatched_keys"])
        raise ModelError(f"model folder {folder}: weights of another shape than config.json says: {_some(unfit)}")
    if not has_words:
        return model, None
    return model.vilt, model.mlm_score.requires_grad_(False).eval()


def _load_tokenizer(folder: Path, vocab_size: int) -> PreTrainedTokenizerBase:
    # Without these files transformers makes up an empty tokenizer.
    path = require_file(folder, _TOKENIZER_FILES, "tokenizer")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(f"{path}: cannot be loaded as a tokenizer: {_first_line(error)}") from error
    if len(tokenizer) > vocab_size:
        raise ModelError(f"{path}: {len(tokenizer)} tokens, but the model in {folder} has embeddings for {vocab_size}")
    return tokenizer


def _load_processor(folder: Path) -> ViltImageProcessorPil:
    path = require_file(folder, _PROCESSOR_FILES, "image processor")
    try:
        return ViltImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # as above
        raise ModelError(f"{path}: cannot be loaded as a ViLT image processor: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' progress bars and loading report: what matters in it is checked and raised here."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} tensor(s): " + ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
