"""The interface that every frozen foundation model implements."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from feddat.example import View

if TYPE_CHECKING:  # torch takes a second to import, which merely naming a model must not cost
    import torch
    from torch import Tensor, nn

    from feddat.pictures import Pixels


class ModelError(ValueError):
    """A model folder cannot be used. The message names the folder or file and says what was expected."""


#: How much of a text a model leaves out: its end (``cut``), or all of it (``empty``).
Unread: TypeAlias = Literal["cut", "empty"]


class EncodedViews(Protocol):
    """Views that were prepared once (decoded, resized, tokenised) and can be batched any number of times."""

    def __len__(self) -> int:
        """Return the number of views."""
        ...

    def batch(self, indices: Sequence[int] | Tensor, device: torch.device) -> dict[str, Tensor]:
        """Return the model inputs of the views at ``indices``, in that order, on ``device``."""
        ...


class Encoder(Protocol):
    """Preparation of images and texts for a backbone. It needs no weights.

    Attributes:
        fingerprint: hash of everything that determines the results; equal fingerprints mean equal results.
        widest: maximum ratio of the longer to the shorter side of a picture.
    """

    fingerprint: str

    @property
    def widest(self) -> float: ...  # noqa: D102

    def image(self, pixels: Pixels) -> Tensor:
        """Return a picture at model resolution, uint8 (3, H, W).

        Args:
            pixels: RGB picture, uint8 (H, W, 3), not too narrow (:mod:`feddat.models.narrow`).
        """
        ...

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        ...

    def unread(self, texts: Sequence[str]) -> list[Unread | None]:
        """Return for each text ``cut`` if the model reads only a part, ``empty`` if none, ``None`` if it reads all."""
        ...

    def views(
        self, images: Sequence[Tensor], image_of_view: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> EncodedViews:
        """Return views that are ready to be batched.

        Args:
            images: distinct images from :meth:`image`.
            image_of_view: index into ``images`` per view.
            tokens: token ids per view, from :meth:`texts`.
        """
        ...


class Backbone(Protocol):
    """A frozen foundation model: images and texts in, pooled features out.

    Attributes:
        name: bundled name, name on the Hub, or folder.
        family: name of the family, such as ``"vilt"``.
        model: the module that PEFT wraps; the wrapping ``PeftModel`` can replace it.
        feature_dim: width d of the pooled features.
    """

    name: str
    family: str
    model: nn.Module
    feature_dim: int

    @property
    def encoder(self) -> Encoder:
        """Return the encoder that turns views into inputs."""
        ...

    def encode(self, views: Sequence[View]) -> EncodedViews:
        """Decode, resize and tokenise every view once.

        Raises:
            DataError: an image cannot be read; the message names the file.
        """
        ...

    def features(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return pooled features (views, feature_dim), float32 or float64."""
        ...

    def word_head(self, answers: Sequence[str]) -> nn.Module | None:
        """Return a new classifier over ``answers``, with weights copied from the backbone's masked-word head.

        ``None`` if the model folder has no masked-word head.
        """
        ...


@runtime_checkable
class StagedBackbone(Backbone, Protocol):
    """A backbone whose forward pass can stop where adapters begin, and continue from there on several routes."""

    def stage(self, changed: Collection[nn.Module]) -> None:
        """Split the forward pass before the first module that routes change.

        Args:
            changed: modules of :attr:`model` that routes change. Code that later changes others must split it again.
        """
        ...

    def prefix(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the part of the forward pass that no route changes, and return inputs for :meth:`features`.

        On every route, :meth:`features` returns the same for them as for the batch's own inputs. The inputs come back
        unchanged if nothing can be computed in advance: the forward pass was not split, adapters begin at the bottom,
        dropout is active and differs from pass to pass, or the inputs already are a prefix.
        """
        ...


#: An adapter as a stateless function of an output and weights, together with the weights.
PureAddition: TypeAlias = "tuple[Callable[..., Tensor], Sequence[Tensor]]"


@runtime_checkable
class AddsToOutput(Protocol):
    """A module that adapters wrap around another one to add to its output.

    Attributes:
        adds_to_output: whether the only change is a sum with the output.
    """

    adds_to_output: bool

    # Not PEFT's attribute `base_layer`: since Python 3.12, protocols do not see the children of a module.
    def get_base_layer(self) -> nn.Module:
        """Return the wrapped module."""
        ...

    def adapt(self, output: Tensor) -> Tensor:
        """Return an output of the base layer plus the addition of the current route."""
        ...

    @staticmethod
    def pure(sites: Sequence[Any], dtype: torch.dtype) -> Sequence[PureAddition]:
        """Return :meth:`adapt` of several such modules, on the current route, as functions in one dtype."""
        ...
