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
from transformers import ViltForMaskedLM, ViltModel
from transformers.models.vilt.modeling_vilt import ViltMLMHead
from transformers.utils import logging

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.encoding import encode_views
from feddat.models.fast_vilt import make_fast
from feddat.models.folder import first_line, read_model_type, require_file
from feddat.models.vilt_encoder import ViltEncoder

__all__ = ["ViltBackbone", "make_fast"]


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
        self.encoder = ViltEncoder(self.folder)
        self.model: nn.Module = make_fast(vilt).requires_grad_(False).train(False)
        self.feature_dim: int = vilt.config.hidden_size

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Texts longer than the model's position embeddings are cut.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        return encode_views(self.encoder, views)

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
                pieces = self.encoder.tokenizer(answer, add_special_tokens=False)["input_ids"]
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
        raise ModelError(f"model folder {folder}: weights cannot be loaded as ViLT: {first_line(error)}") from error
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
