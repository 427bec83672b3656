"""Models and datasets by name from the Hugging Face Hub, or from the mirror in ``HF_ENDPOINT``."""

from feddat.hub.address import SCHEME, Address, HubError, located, names_data, parse_address
from feddat.hub.card import folder_configs
from feddat.hub.client import Repository, fetch, is_offline, look_up, stores_of

__all__ = [
    "SCHEME",
    "Address",
    "HubError",
    "Repository",
    "fetch",
    "folder_configs",
    "is_offline",
    "located",
    "look_up",
    "names_data",
    "parse_address",
    "stores_of",
]
