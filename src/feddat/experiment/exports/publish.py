"""Upload an exported model to the Hub, or to the server that ``HF_ENDPOINT`` names; only on request."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from feddat.experiment.exports.folder import ExportError


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder to a repository, which is created if it does not exist, and return its address.

    Args:
        folder: folder of an exported model.
        repository: ``OWNER/NAME``.
        private: make a new repository private.

    Raises:
        ExportError: the server refuses or cannot be reached; the folder is left unchanged.
    """
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a model of FedDAT")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        raise ExportError(f"--push {repository}: {' '.join(str(error).split())}; the folder is in {folder}") from error
    return f"{api.endpoint}/{repository}"
