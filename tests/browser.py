"""Pages in a headless browser, where the machine has one."""

import shutil
import subprocess
from pathlib import Path

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
]


def run_browser(folder: Path, address: str, *flags: str) -> str:
    """Open an address in a headless browser with its profile in this folder; return what it prints."""
    assert BROWSER is not None
    profile = folder / "browser-profile"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", *flags, address]
    return subprocess.run(command, check=True, capture_output=True, timeout=60, text=True).stdout
