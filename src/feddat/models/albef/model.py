"""ALBEF for visual question answering, built from the layers of transformers' own ViT and BERT.

Li, Selvaraju, Gotmare, Joty, Xiong, Hoi: "Align before Fuse: Vision and Language Representation Learning with Momentum
Distillation", NeurIPS 2021, arXiv 2107.07651, sections 3.1 and 4 (VQA).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoConfig, BertConfig, BertModel, PreTrainedConfig, PreTrainedModel, ViTConfig, ViTModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertLayer, BertPredictionHeadTransform

from feddat.models.base import ModelError


class AlbefConfig(PreTrainedConfig):
    """Configuration of the whole model; the defaults are those of the published model.

    Attributes:
        vision_config: configuration of the image encoder.
        text_config: configuration of the text encoder, and of the answer decoder except for its number of layers.
        fusion_layer: first layer of the text encoder that attends to the image.
        decoder_layers: number of layers of the answer decoder; all of them attend to the encoded question.
    """

    model_type = "albef"
    sub_configs: ClassVar = {"vision_config": ViTConfig, "text_config": BertConfig}

    vision_config: Any = None
    text_config: Any = None
    fusion_layer: int = 6
    decoder_layers: int = 6

    def __post_init__(self, **kwargs: Any) -> None:
        """Convert the nested dictionaries to configurations and check that the parts fit together.

        Raises:
            ModelError: the widths of the parts differ, or ``fusion_layer`` is not a layer of the text encoder.
        """
        if not isinstance(self.vision_config, ViTConfig):
            self.vision_config = ViTConfig(**({"image_size": 384, "layer_norm_eps": 1e-6} | (self.vision_config or {})))
        if not isinstance(self.text_config, BertConfig):
            self.text_config = BertConfig(**(self.text_config or {}))
        widths = self.vision_config.hidden_size, self.text_config.hidden_size
        if widths[0] != widths[1]:
            raise ModelError(
                f"ALBEF: vision_config.hidden_size {widths[0]} and text_config.hidden_size {widths[1]} differ"
            )
        if not 0 <= self.fusion_layer < self.text_config.num_hidden_layers:
            raise ModelError(
                f"ALBEF: fusion_layer {self.fusion_layer}; expected 0 to {self.text_config.num_hidden_layers - 1}, "
                "a layer of the text encoder"
            )
        super().__post_init__(**kwargs)  # type: ignore[no-untyped-call]


class AlbefModel(PreTrainedModel):
    """Image encoder, text encoder with fusion layers, and answer decoder, without the vocabulary head."""

    config_class = AlbefConfig
    base_model_prefix = "albef"
    _supports_sdpa = True

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.vision = ViTModel(config.vision_config, add_pooling_layer=False)
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        decoding = _decoding(config.text_config)
        for index in range(config.fusion_layer, config.text_config.num_hidden_layers):
            # In transformers only decoders attend to an image; here words still attend to all words.
            layer = BertLayer(decoding, layer_idx=index)  # type: ignore[no-untyped-call]
            layer.attention.self.is_causal = False
            self.text_encoder.encoder.layer[index] = layer
        decoding.num_hidden_layers = config.decoder_layers
        self.text_decoder = BertModel(decoding, add_pooling_layer=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def encode(self, input_ids: Tensor, attention_mask: Tensor, pixel_values: Tensor) -> Tensor:
        """Return the states of questions after attending to their images, (N, L, d).

        Args:
            input_ids: token ids of questions (N, L), int64.
            attention_mask: mask (N, L), 1 where there is a token.
            pixel_values: normalised pixels (N, 3, H, W).
        """
        image = self.vision(pixel_values).last_hidden_state
        states: Tensor = self.text_encoder(
            input_ids, attention_mask=attention_mask, encoder_hidden_states=image
        ).last_hidden_state
        return states

    def read_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the states (N, L, d) of texts before the fusion layers, where they have not seen an image."""
        states: Tensor = self.text_encoder.embeddings(input_ids=input_ids)
        mask = self._text_mask(states, attention_mask)
        for layer in self.text_encoder.encoder.layer[: self.config.fusion_layer]:
            states = layer(states, mask)
        return states

    def fuse(self, text: Tensor, attention_mask: Tensor, image: Tensor) -> Tensor:
        """Return the output of the fusion layers for texts and images, (N, L, d).

        :meth:`encode` does both steps at once. Separate steps let the states of one text be fused with several images.

        Args:
            text: states (N, L, d) from :meth:`read_text`.
            attention_mask: mask (N, L), 1 where there is a token.
            image: states of the image encoder (N, tokens, d).
        """
        mask = self._text_mask(text, attention_mask)
        for layer in self.text_encoder.encoder.layer[self.config.fusion_layer :]:
            text = layer(text, mask, encoder_hidden_states=image)
        return text

    def _text_mask(self, states: Tensor, attention_mask: Tensor) -> Tensor | None:
        mask: Tensor | None = create_bidirectional_mask(
            config=self.text_encoder.config, inputs_embeds=states, attention_mask=attention_mask
        )
        return mask

    def decode(
        self, input_ids: Tensor, attention_mask: Tensor, question_states: Tensor, question_mask: Tensor
    ) -> Tensor:
        """Return the states (M, A, d) that predict the next tokens of M answers, given one question per answer.

        Args:
            input_ids: token ids of answers (M, A), int64.
            attention_mask: mask (M, A), 1 where there is a token.
            question_states: states (M, L, d) from :meth:`encode`.
            question_mask: mask (M, L), 1 where a question has a token.
        """
        states: Tensor = self.text_decoder(
            input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=question_states,
            encoder_attention_mask=question_mask,
            use_cache=False,
        ).last_hidden_state
        return states


class VocabularyHead(nn.Module):
    """BERT's masked-word head, from decoder states (..., d) to token logits (..., V).

    As published, its word matrix starts as the decoder's word embeddings. Here it is a copy, because the head is
    personal and trains, while the embeddings are shared and frozen.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)  # type: ignore[no-untyped-call]
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        """Return token logits."""
        logits: Tensor = self.decoder(self.transform(states))
        return logits


class AlbefForQuestionAnswering(PreTrainedModel):
    """The model and its vocabulary head, as stored in a model folder."""

    config_class = AlbefConfig
    base_model_prefix = "albef"
    _supports_sdpa = True

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.albef = AlbefModel(config)
        self.head = VocabularyHead(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]


# Registered so that transformers finds a folder's tokenizer by its configuration, as for its own families.
AutoConfig.register(AlbefConfig.model_type, AlbefConfig, exist_ok=True)


def _decoding(config: BertConfig) -> BertConfig:
    """Return a copy of a text encoder's configuration for layers with cross-attention."""
    values = config.to_dict() | {"is_decoder": True, "add_cross_attention": True, "use_cache": False}
    copy = BertConfig(**values)
    copy._attn_implementation = config._attn_implementation
    return copy
