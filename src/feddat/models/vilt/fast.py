"""A faster ViLT with the stock weights: no randomness, no Python loops over images, scaled-dot-product attention.

transformers picks image patches with ``torch.multinomial``, loops over the images of a batch, and has only eager
attention. :func:`make_fast` replaces the ``forward`` code of two kinds of module in a stock model. Module names,
parameters and the state dict stay the same, so PEFT and ``save_pretrained`` work as before.

Patches keep their row-major order. If ``config.max_image_length`` is positive and an image has more patches, the stock
model keeps a random subset. Here the subset is always the same and evenly spaced: kept patch j of m, out of v, is patch
``j * v // m`` in row-major order.

Model: Kim, Son, Kim, "ViLT: Vision-and-Language Transformer Without Convolution or Region Supervision", ICML 2021.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.vilt.modeling_vilt import ViltEmbeddings, ViltPreTrainedModel, ViltSelfAttention

from feddat.models.attention import attention

Model = TypeVar("Model", bound=ViltPreTrainedModel)


def make_fast(model: Model) -> Model:
    """Replace the embedding and attention code of a stock ViLT in place, and return the same model.

    Works on ``ViltModel`` and on every model that contains one, such as ``ViltForMaskedLM``. A second call changes
    nothing.

    Raises:
        TypeError: the model has no ViLT embeddings.
    """
    found = False
    for module in model.modules():
        if isinstance(module, ViltEmbeddings):
            module.__class__ = FastViltEmbeddings
            found = True
        elif isinstance(module, ViltSelfAttention):
            module.__class__ = FastViltSelfAttention
    if not found:
        raise TypeError(f"make_fast expects a ViLT model, got {type(model).__name__}")
    return model


class FastViltEmbeddings(ViltEmbeddings):
    """``ViltEmbeddings`` with patches in row-major order. It returns a boolean 4D mask, or ``None`` without padding.

    ``pixel_mask`` can have the resolution of pixels or of patches. Valid pixels form a rectangle from the top left.
    Both masks can be on the CPU while everything else is on a GPU, so that nothing has to wait for the GPU.
    """

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Return embeddings (N, text + image tokens, d) and the mask (N, 1, 1, tokens), true where to attend."""
        embeddings, mask = super().forward(*args, **kwargs)  # type: ignore[no-untyped-call]
        mask = mask.bool()
        # Attention kernels are fastest without a mask. ViltModel forwards a 4D mask or None unchanged.
        if mask.all():
            return embeddings, None
        return embeddings, mask[:, None, None, :].to(embeddings.device, non_blocking=True)

    def visual_embed(
        self, pixel_values: Tensor, pixel_mask: Tensor, max_image_length: int | None = None
    ) -> tuple[Tensor, Tensor, None]:
        """Return image embeddings (N, 1 + patches, d) and their mask (N, 1 + patches), long."""
        x = self._patches(pixel_values)
        mask = F.interpolate(pixel_mask[:, None].float(), size=x.shape[2:])[:, 0].bool()
        sizes = torch.stack([mask[:, :, 0].sum(dim=1), mask[:, 0, :].sum(dim=1)], dim=1)
        height, width = (int(size) for size in sizes.amax(dim=0))
        x, mask = x[:, :, :height, :width], mask[:, :height, :width]
        mask = mask.flatten(1)
        uniform = bool(mask.all())
        positions = (
            self._positions(height, width)
            if uniform
            else self._positions_per_image(sizes.to(x.device, non_blocking=True), height, width)
        )
        x = x.flatten(2).transpose(1, 2) + positions

        counts = sizes.prod(dim=1)
        length = height * width if uniform else int(counts.max())
        if max_image_length is not None and max_image_length > 0:
            length = min(length, max_image_length)
        if length < height * width:
            # Valid patches first, in row-major order; if there are too many, an evenly spaced subset.
            order = torch.argsort(~mask, dim=1, stable=True)
            rank = torch.arange(length, device=mask.device) * counts.clamp(min=length)[:, None] // length
            keep = order.gather(1, rank)
            x = x.gather(1, keep.to(x.device)[:, :, None].expand(-1, -1, x.shape[2]))
            mask = mask.gather(1, keep)

        cls = (self.cls_token + self.position_embeddings[:, :1]).expand(x.shape[0], -1, -1)
        x = self.dropout(torch.cat([cls.to(x.dtype), x], dim=1))
        return x, F.pad(mask.long(), (1, 0), value=1), None

    def _patches(self, pixels: Tensor) -> Tensor:
        """Return patch embeddings (N, d, rows, columns).

        Patches do not overlap, so the convolution is one matrix product, which takes a GPU a tenth of the time.
        """
        projection = self.patch_embeddings.projection
        if pixels.device.type != "cuda":
            embedded: Tensor = self.patch_embeddings(pixels)
            return embedded
        return product_of_patches(pixels, projection.weight, projection.bias)

    def _native_grid(self) -> Tensor:
        """Return the learned position embeddings as a grid (1, d, rows, columns)."""
        (height, width), (patch_height, patch_width) = (
            self.patch_embeddings.image_size,
            self.patch_embeddings.patch_size,
        )
        shape = (1, -1, height // patch_height, width // patch_width)
        return self.position_embeddings[:, 1:].transpose(1, 2).reshape(shape)

    def _positions(self, height: int, width: int) -> Tensor:
        """Return position embeddings (1, height * width, d) for images that all have the same grid."""
        grid = self._native_grid()
        if grid.shape[2:] != (height, width):
            grid = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=True)
        return grid.flatten(2).transpose(1, 2)

    def _positions_per_image(self, sizes: Tensor, height: int, width: int) -> Tensor:
        """Return position embeddings (N, height * width, d) for images that cover the top left ``sizes[n]`` patches.

        The result equals one bilinear interpolation per image with aligned corners. Values outside an image are masked
        later.
        """
        grid = self._native_grid()
        rows = self._sample_points(sizes[:, 0], height)
        columns = self._sample_points(sizes[:, 1], width)
        points = torch.stack(
            [columns[:, None, :].expand(-1, height, -1), rows[:, :, None].expand(-1, -1, width)], dim=-1
        )
        # Half-precision coordinates would blur the positions.
        exact = torch.promote_types(grid.dtype, torch.float32)
        sampled = F.grid_sample(
            grid.to(exact).expand(len(sizes), -1, -1, -1),
            points.to(exact),
            mode="bilinear",
            padding_mode="border",
            align_corners=True,
        )
        return sampled.to(grid.dtype).flatten(2).transpose(1, 2)

    @staticmethod
    def _sample_points(sizes: Tensor, length: int) -> Tensor:
        """Return the positions of patches 0..length-1 per image, on an axis from -1 to 1 that spans its ``size``."""
        steps = torch.arange(length, device=sizes.device, dtype=torch.float64)
        return steps * 2 / (sizes[:, None] - 1).clamp(min=1) - 1


def product_of_patches(pixels: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a convolution of ``pixels`` whose stride equals its kernel size, computed as a matrix product.

    Args:
        pixels: pixels (N, 3, H, W); incomplete patches at the bottom and on the right are ignored.
        weight: weight (d, 3, patch height, patch width).
        bias: bias (d,).

    Returns:
        Embeddings (N, d, rows, columns).
    """
    count, channels, height, width = pixels.shape
    _, _, patch_height, patch_width = weight.shape
    rows, columns = height // patch_height, width // patch_width
    if torch.is_autocast_enabled(pixels.device.type):  # cast before patches are copied
        pixels = pixels.to(torch.get_autocast_dtype(pixels.device.type))
    whole = pixels[:, :, : rows * patch_height, : columns * patch_width]
    divided = whole.reshape(count, channels, rows, patch_height, columns, patch_width)
    patches = divided.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, -1)
    return F.linear(patches, weight.flatten(1), bias).transpose(1, 2).reshape(count, -1, rows, columns)


class FastViltSelfAttention(ViltSelfAttention):
    """``ViltSelfAttention`` that uses ``scaled_dot_product_attention``."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, output_attentions: bool = False
    ) -> tuple[Tensor, ...]:
        """Return the context (N, tokens, d). If attention weights are requested, the stock code computes both."""
        if output_attentions:
            if attention_mask is not None:
                attention_mask = torch.zeros_like(attention_mask, dtype=hidden_states.dtype).masked_fill(
                    ~attention_mask, torch.finfo(hidden_states.dtype).min
                )
            return super().forward(hidden_states, attention_mask, True)  # type: ignore[no-any-return, no-untyped-call]
        return (self.attend(hidden_states, hidden_states, attention_mask),)

    def attend(self, asking: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
        """Return the context (N, Q, d) of some tokens (N, Q, d) that attend to all of ``states`` (N, tokens, d)."""

        def heads(projected: Tensor) -> Tensor:
            shape = (*projected.shape[:-1], self.num_attention_heads, self.attention_head_size)
            return projected.view(shape).transpose(1, 2)

        query, key, value = heads(self.query(asking)), heads(self.key(states)), heads(self.value(states))
        dropout = self.dropout.p if self.training else 0.0
        return attention(query, key, value, mask, dropout).transpose(1, 2).flatten(2)
