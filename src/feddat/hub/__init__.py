"""Models and datasets by their names on the Hugging Face Hub, or on the mirror that ``HF_ENDPOINT`` names."""

from feddat.hub.address import Address, HubError, parse_address
from feddat.hub.client import Repository, fetch, is_offline, look_up

__all__ = ["Address", "HubError", "Repository", "fetch", "is_offline", "look_up", "parse_address"]
