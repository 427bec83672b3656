"""An exported model on the Hub, or on whatever server ``HF_ENDPOINT`` names; only ever when asked for."""

from __future__ import annotations

import os
from pathlib import Path

import httpx2
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from feddat.experiment.exports.folder import ExportError


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload a folder into a repository, which is made where there is none, and return its address.

    Args:
        folder: of an exported model.
        repository: ``OWNER/NAME``.
        private: of a new repository: nobody else sees it.

    Raises:
        ExportError: the server refuses or cannot be reached; the folder stays as it is.
    """
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None)
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Upload a model of FedDAT")
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, httpx2.HTTPError, OSError) as error:
        raise ExportError(f"--push {repository}: {' '.join(str(error).split())}; the folder is in {folder}") from error
    return f"{api.endpoint}/{repository}"
