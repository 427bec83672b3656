"""The interface that every frozen foundation model offers to the rest of the house."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from feddat.example import View

if TYPE_CHECKING:  # naming a model must not take torch's second of loading
    import torch
    from torch import Tensor, nn

    from feddat.pictures import Pixels


class ModelError(ValueError):
    """A model folder cannot be used; the message names the folder or file and what was expected."""


#: What becomes of a text that a model does not read whole.
Unread: TypeAlias = Literal["cut", "empty"]


class EncodedViews(Protocol):
    """Views prepared once (decoded, resized, tokenised), ready to be batched any number of times."""

    def __len__(self) -> int:
        """Return the number of views."""
        ...

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the model inputs of the views at ``indices``, in that order, on ``device``."""
        ...


class Encoder(Protocol):
    """What happens to images and texts before a backbone sees them; it needs no weights.

    Attributes:
        fingerprint: of everything that decides the results: equal fingerprints, equal results.
        widest: how many times as long as the other a side of a picture may be.
    """

    fingerprint: str

    @property
    def widest(self) -> float: ...  # noqa: D102

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, H, W).

        Args:
            pixels: RGB, uint8 (H, W, 3), not too narrow (:mod:`feddat.models.narrow`).
        """
        ...

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return each text's token ids."""
        ...

    def unread(self, texts: Sequence[str]) -> list[Unread | None]:
        """Return of each text whether the model reads a part of it alone (``cut``) or none; ``None``: it reads all."""
        ...

    def views(
        self, images: Sequence[Tensor], image_of_view: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> EncodedViews:
        """Return views ready to be batched.

        Args:
            images: distinct images, as :meth:`image` gives them.
            image_of_view: index into ``images`` per view.
            tokens: token ids per view, as :meth:`texts` gives them.
        """
        ...


class Backbone(Protocol):
    """A frozen foundation model: images and texts in, pooled features out.

    Attributes:
        name: bundled name or folder.
        family: e.g. ``"vilt"``.
        model: the module that PEFT wraps; it may be replaced by the wrapping ``PeftModel``.
        feature_dim: width d of the pooled features.
    """

    name: str
    family: str
    model: nn.Module
    feature_dim: int

    @property
    def encoder(self) -> Encoder:
        """Return what turns views into inputs."""
        ...

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once.

        Raises:
            DataError: an image cannot be read; names the file.
        """
        ...

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return pooled features, shape (views, feature_dim), float."""
        ...

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a new classifier over ``answers`` made of the backbone's own masked-word head.

        Its weights are copies. ``None`` where the model folder has no masked-word head.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the model folder in Hugging Face layout."""
        ...


@runtime_checkable
class StagedBackbone(Backbone, Protocol):
    """A backbone whose forward pass can stop where adapters begin, and go on from there on several routes."""

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Divide the forward pass in front of the first of the modules that routes change.

        Args:
            changed: modules of :attr:`model`; whoever changes others has to divide it again.
        """
        ...

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what :meth:`features` takes in the place of a batch's inputs, on any route, for the same result.

        These are the inputs themselves where nothing can be done before: the forward pass was not divided, adapters
        begin at the bottom, dropout is at work, which differs from pass to pass, or they are a prefix already.
        """
        ...


#: A function of an output and weights, and the weights: what an adapter makes of the output, without a state.
PureAddition: TypeAlias = "tuple[Callable[..., Tensor], Sequence[Tensor]]"


@runtime_checkable
class AddsToOutput(Protocol):
    """A module that adapters put around another, to add to its output.

    Attributes:
        adds_to_output: whether a sum with its output is all that it changes.
    """

    adds_to_output: bool

    # Not PEFT's attribute `base_layer`: from Python 3.12 on, protocols do not see what a module holds as a child.
    def get_base_layer(self) -> nn.Module:
        """Return the other module."""
        ...

    def adapt(self, output: Tensor) -> Tensor:
        """Return an output of the base layer with what the present route adds to it."""
        ...

    @staticmethod
    def pure(sites: Sequence[Any], dtype: torch.dtype) -> Sequence[PureAddition]:
        """Return :meth:`adapt` of several such modules on the present route as functions in one format."""
        ...
