"""Imported libraries fetch nothing from a hub, and no warning about that reaches the terminal."""

import logging
import os
import subprocess
import sys

import pytest

from feddat.offline import offline


@pytest.fixture
def fetcher(tmp_path, monkeypatch):
    """Put a fake ``kernels`` package on the path; importing it writes the file ``asked`` into the returned folder."""
    (tmp_path / "kernels.py").write_text(f"open({str(tmp_path / 'asked')!r}, 'w').close()\nget_kernel = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    return tmp_path


def test_what_fetches_is_not_found_inside_and_found_again_after(fetcher):
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    with offline():
        with pytest.raises(ImportError):
            import kernels
        assert not logging.getLogger("bitsandbytes.backends.cpu.ops").isEnabledFor(logging.WARNING)
    assert not (fetcher / "asked").exists()
    assert logger.level == level
    import kernels

    assert (fetcher / "asked").exists()
    with pytest.raises(KeyError), offline():
        raise KeyError
    assert sys.modules["kernels"] is kernels


def test_adapters_are_imported_without_a_word(fetcher):
    """Importing the adapters prints nothing and does not load ``kernels``.

    Without protection, bitsandbytes would import it on a CPU with AVX512-BF16, and warn.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(fetcher), *filter(None, sys.path)])}
    code = "import feddat.adapters.dual, sys; print('peft' in sys.modules, 'kernels' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.stdout, done.stderr) == ("True False\n", "")
    assert not (fetcher / "asked").exists()
