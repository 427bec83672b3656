"""Decoder vision-language models as frozen backbones that generate their answers.

Supported are models that transformers' ``AutoModelForImageTextToText`` loads from a local folder and that read pictures
as tokens of a language model: SmolVLM and Idefics3 (arXiv 2504.05299, 2408.12637), Qwen2-VL, 2.5-VL and 3-VL (arXiv
2409.12191, 2502.13923), PaliGemma (arXiv 2407.07726), LLaVA (arXiv 2304.08485).
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText
from transformers.cache_utils import Cache

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.decoder.encoder import DecoderEncoder
from feddat.models.decoder.prefix import Prefixes, ReadingLayer
from feddat.models.encoding import encode_views
from feddat.models.folder import read_model_type
from feddat.models.generative import answer_features
from feddat.models.number_formats import Format, convert_weights, rest_dtype
from feddat.models.stages import drops_out
from feddat.models.weights import load_weights, weights_hash

#: Key of encoded pictures, which the language model reads instead of pixels; it is the name in transformers' models.
_SEEN = "mm_encoder_outputs"
#: Entries of a language model's configuration that rescale logits in unsupported ways.
_RESCALED = ("logit_scale", "logits_scaling")


class DecoderBackbone:
    """A frozen decoder vision-language model behind :class:`feddat.models.generative.GenerativeBackbone`.

    A question is read once, together with its picture, and its answers follow it. The start token of
    :meth:`answer_tokens` is only a placeholder for the prompt and is never read. The stored last state of the prompt
    predicts the first token of the answer.

    The vocabulary head is the model's own and does not train. Clients have no head of their own.

    Args:
        folder: Hugging Face model folder.
        name: name of the model in reports; default: the folder's path.
        weights: number format of the frozen weights (:mod:`feddat.models.number_formats`).
        device: device of the weights.

    Attributes:
        unrounded: hash of the weights before ``int8`` and ``int4`` round them, in bfloat16 and so the same on all
            devices; ``None`` for other formats.

    Raises:
        ModelError: the folder is not complete, its model is not of this kind, or the format is not available.
    """

    first_token_counts = 1

    def __init__(
        self, folder: Path | str, name: str | None = None, weights: Format = "fp32", device: str = "cpu"
    ) -> None:
        self.folder = Path(folder)
        self.name = name or str(folder)
        self.family = read_model_type(self.folder)
        self.encoder = DecoderEncoder(self.folder)
        dtype = rest_dtype(weights, device)
        whole = load_weights(AutoModelForImageTextToText, self.folder, self.family, dtype=dtype)
        self._words: nn.Module = whole.get_output_embeddings()
        rounds = weights in ("int8", "int4")
        self.unrounded = weights_hash(whole.state_dict(), torch.bfloat16) if rounds else None
        convert_weights(whole, weights, device, kept=[self._words])
        self.model: nn.Module = whole.requires_grad_(False).train(False)
        # Wrappers change the layers of these modules in place.
        self._whole: Any = getattr(whole, whole.base_model_prefix)
        self._decoder: Any = whole.get_decoder()
        self._takes = frozenset(inspect.signature(self._whole.forward).parameters)
        self._pictures_are_prefix = False
        self._text: Any = self._decoder.config
        self.feature_dim: int = self._text.hidden_size
        for key in _RESCALED:
            if getattr(self._text, key, None) not in (None, 1, 1.0):
                raise ModelError(f"{self.folder / 'config.json'}: {key} is {getattr(self._text, key)}; expected 1")

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the states that predict the answers' tokens, (M, L - 1, d) (:func:`answer_features`)."""
        return answer_features(self, inputs)

    def question_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the state of each prompt's last token, which sees the whole prompt, (views, feature_dim), float."""
        return _wide(self.read(inputs).last[:, 0])

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Split the forward pass after vision tower and projector, if no route changes them."""
        ids = {id(module) for module in changed}
        language = [module for module in self._decoder.modules() if id(module) in ids]
        self._pictures_are_prefix = _SEEN in self._takes and len(language) == len(ids)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs with encoded pictures instead of pixels, if no route changes vision tower and projector."""
        if not self._pictures_are_prefix or drops_out(self._whole):
            return inputs
        see = self._whole.get_image_features
        wanted = set(inspect.signature(see).parameters) & set(inputs)
        seen = {"image": see(**{key: inputs[key] for key in wanted}, return_dict=True)}
        rest = {key: value for key, value in inputs.items() if key != "pixel_values"}
        return rest | {_SEEN: cast(Tensor, seen)}  # not a tensor, but each family's own container of tensors

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer, from the start token (see the class) to the end token."""
        chat = self.encoder.chat
        return [[chat.image_id, *row] for row in chat.answers(answers)]

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return the text of the token ids between the start token and the end token."""
        return self.encoder.chat.text(tokens)

    def answer_head(self) -> nn.Module:
        """Return the model's own vocabulary head, from states (M, L, d) to token logits (M, L, V); it never trains."""
        return FixedHead(self._words, getattr(self._text, "final_logit_softcapping", None))

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return ``None``, because answers are generated, not classified."""
        return None

    def read(self, inputs: dict[str, Tensor]) -> Prefixes:
        """Read the prompts of a batch together with their pictures, and return them."""
        mask = inputs["attention_mask"].bool()
        places: list[Tensor | None] = []

        def note(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            places.append(kwargs.get("position_ids"))

        cache: Any = Cache(layer_class_to_replicate=ReadingLayer)
        watch = self._decoder.register_forward_pre_hook(note, with_kwargs=True)
        try:
            given: dict[str, Any] = {key: value for key, value in inputs.items() if key in self._takes}
            if _SEEN in given:
                given[_SEEN] = dict(given[_SEEN])  # models write into it
            states: Tensor = self._whole(**given, cache=cache, use_cache=True).last_hidden_state
        finally:
            watch.remove()
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        index = torch.arange(len(states), device=states.device)
        last = states[index, mask.sum(dim=1) - 1][:, None]
        # The cache also holds soft prompts, at the start.
        mask = F.pad(mask, (layers[0][0].shape[-2] - mask.shape[1], 0), value=True)
        return Prefixes(layers, last, mask, _following(places[0], mask), index)

    def decode(self, questions: Prefixes, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the states (M, L, d) that predict the token after each token of an answer, float32 or wider."""
        last = _wide(questions.last[questions.index])
        if ids.shape[1] == 1:
            return last
        steps = torch.arange(ids.shape[1] - 1, device=ids.device)
        states: Tensor = self._decoder(
            input_ids=ids[:, 1:],
            attention_mask=self._attention(questions, mask[:, 1:].bool()),
            position_ids=questions.following[questions.index, None] + steps,
            cache=questions.cache(),
            use_cache=True,
        ).last_hidden_state
        return torch.cat([last, _wide(states)], dim=1)

    def _attention(self, questions: Prefixes, answers: Tensor) -> Any:
        """Return the 4-D mask for the language model, or one mask per layer type if some layers use a window."""
        window: int | None = getattr(self._text, "sliding_window", None)
        kinds = set(getattr(self._text, "layer_types", None) or ())
        if window is not None and "sliding_attention" in kinds:
            whole, near = (self._seen(questions.attention(answers, size)) for size in (None, window))
            return {"full_attention": whole, "sliding_attention": near}
        return self._seen(questions.attention(answers, None if kinds else window))

    def _seen(self, mask: Tensor) -> Tensor:
        """Return a boolean mask in the form that the language model's attention expects."""
        if self._text._attn_implementation == "sdpa":
            return mask
        dtype = next(p.dtype for p in self._decoder.parameters() if p.dtype.is_floating_point)
        return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


class FixedHead(nn.Module):
    """A vocabulary head that belongs to the frozen model. It has no parameters, and its copies share the same weights.

    Args:
        words: linear map from states to token logits.
        softcap: bound c of the logits, c·tanh(z / c); ``None`` for no bound.
    """

    def __init__(self, words: nn.Module, softcap: float | None = None) -> None:
        super().__init__()
        self._words = [words]  # in a list, so that it is not a submodule
        self._softcap = softcap

    def forward(self, states: Tensor) -> Tensor:
        """Return token logits (..., V) for states (..., d)."""
        words: Any = self._words[0]
        logits: Tensor = words(states.to(words.weight.dtype))
        return logits if self._softcap is None else (logits / self._softcap).tanh() * self._softcap

    def __deepcopy__(self, memo: dict[int, Any]) -> FixedHead:
        """Return another head with the same weights."""
        return FixedHead(self._words[0], self._softcap)


def _following(positions: Tensor | None, mask: Tensor) -> Tensor:
    """Return the position after each prompt, (N,), from its tokens' positions: (N, P), or (A, N, P) for A axes."""
    if positions is None:
        return mask.sum(dim=1)
    positions = positions if positions.ndim == 3 else positions[None]
    return positions.masked_fill(~mask, -1).amax(dim=(0, 2)) + 1


def _wide(states: Tensor) -> Tensor:
    return states if states.dtype == torch.float64 else states.float()
