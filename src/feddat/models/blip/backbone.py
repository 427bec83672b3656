"""BLIP for visual question answering as a frozen backbone that generates its answers.

Li, Li, Xiong, Hoi: "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language Understanding and
Generation", ICML 2022, arXiv 2201.12086. It loads from any Hugging Face folder in the layout of
``Salesforce/blip-vqa-base``. It has an image encoder, a text encoder that reads the question together with the image,
and a decoder that generates the answer.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BlipForQuestionAnswering

from feddat.example import View
from feddat.models.base import EncodedViews, ModelError
from feddat.models.blip.encoder import BlipEncoder
from feddat.models.encoding import encode_views
from feddat.models.folder import read_model_type
from feddat.models.generative import IMAGE_STATES, Questions, answer_features
from feddat.models.stages import drops_out, is_changed
from feddat.models.weights import load_weights


class BlipBackbone:
    """A frozen BLIP behind :class:`feddat.models.generative.GenerativeBackbone`.

    The vocabulary head is not part of :attr:`model`. Clients have their own heads, which start as copies of it.

    Args:
        folder: Hugging Face model folder.
        name: name of the model in reports; default: the folder's path.

    Raises:
        ModelError: the folder is not a complete folder of BLIP for question answering.
    """

    family = "blip"
    first_token_counts = 1

    def __init__(self, folder: Path | str, name: str | None = None):
        self.folder = Path(folder)
        self.name = name or str(folder)
        model_type = read_model_type(self.folder)
        if model_type != "blip":
            raise ModelError(f"{self.folder / 'config.json'}: model_type is {model_type!r}; expected 'blip'")
        blip = load_weights(BlipForQuestionAnswering, self.folder, "BLIP for question answering")
        self.encoder = BlipEncoder(self.folder)
        self._words: Any = blip.text_decoder.cls.predictions.requires_grad_(False)
        blip.text_decoder.cls = nn.Identity()
        for layer in blip.text_decoder.bert.encoder.layer:
            layer.crossattention.self.register_forward_pre_hook(_mask_questions, with_kwargs=True)
        self.model: nn.Module = blip.requires_grad_(False).train(False)
        self._image_is_prefix = False
        self.feature_dim: int = blip.config.text_config.hidden_size

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once; an image that several views share is stored once.

        Texts longer than the model's position embeddings are cut.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        return encode_views(self.encoder, views)

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the states that predict the answers' tokens, (M, L - 1, d) (:func:`answer_features`)."""
        return answer_features(self, inputs)

    def read(self, inputs: dict[str, Tensor]) -> Questions:
        """Read the questions of a batch together with their images, and return them."""
        model: Any = self.model
        image = self._see(inputs)
        mask = inputs["attention_mask"]
        read = model.text_encoder(input_ids=inputs["input_ids"], attention_mask=mask, encoder_hidden_states=image)
        return Questions(read.last_hidden_state, mask)

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Split the forward pass after the image encoder, if no route changes the image encoder."""
        model: Any = self.model
        self._image_is_prefix = not is_changed(model.vision_model, changed)

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return inputs with the image encoder's states instead of pixels, if no route changes the image encoder."""
        model: Any = self.model
        if not self._image_is_prefix or drops_out(model.vision_model):
            return inputs
        rest = {key: value for key, value in inputs.items() if key != "pixel_values"}
        return rest | {IMAGE_STATES: self._see(inputs)}

    def _see(self, inputs: dict[str, Tensor]) -> Tensor:
        model: Any = self.model
        if IMAGE_STATES in inputs:
            return inputs[IMAGE_STATES]
        states: Tensor = model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
        return states

    def question_features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the state of each question's first token after reading the image, (views, feature_dim), float."""
        states = self.read(inputs).states[:, 0]
        return states if states.dtype == torch.float64 else states.float()

    def decode(self, questions: Questions, ids: Tensor, mask: Tensor) -> Tensor:
        """Return the decoder's hidden states (M, L, d), float32 or wider."""
        model: Any = self.model
        states: Tensor = model.text_decoder.bert(
            input_ids=ids,
            attention_mask=mask.long(),
            encoder_hidden_states=questions.states,
            encoder_attention_mask=questions.mask,
            is_decoder=True,
            use_cache=False,
        ).last_hidden_state
        return states if states.dtype == torch.float64 else states.float()

    def answer_tokens(self, answers: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each answer, from the start token to the end token."""
        return self.encoder.answers(answers)

    def answer_text(self, tokens: Sequence[int]) -> str:
        """Return the text of the token ids between the start token and the end token."""
        return self.encoder.text(tokens)

    def answer_head(self) -> nn.Module:
        """Return a new trainable vocabulary head from states (M, L, d) to token logits (M, L, V).

        It is a copy of the folder's head. It no longer shares its word vectors with the decoder's input.
        """
        words = nn.Linear(self.feature_dim, self._words.decoder.out_features)
        words.load_state_dict(self._words.decoder.state_dict())
        return nn.Sequential(copy.deepcopy(self._words.transform), words).cpu().requires_grad_(True)

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return ``None``, because BLIP has no masked-word head."""
        return None


def _mask_questions(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Pass the mask of the questions to the decoder's cross-attention.

    transformers 5 passes it under the name of the answers' mask, which cross-attention ignores. Without this hook,
    answers would depend on the padding of their question.
    """
    return args, kwargs | {"encoder_attention_mask": kwargs["attention_mask"]}
