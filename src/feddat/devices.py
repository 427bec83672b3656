"""The device of a computation, by the name that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feddat.config import ConfigError

if TYPE_CHECKING:
    import torch


def device_of(name: str) -> torch.device:
    """Return the device with this name.

    Raises:
        ConfigError: this machine cannot use the device.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device: {name!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
