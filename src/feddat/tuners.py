"""Register this package's own PEFT tuners when both packages are imported, in either order.

``import feddat`` loads neither torch nor PEFT, so the tuners cannot be registered at that point. They are registered as
soon as anyone imports PEFT.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

PEFT = "peft"
#: Importing one of these modules registers its tuner.
TUNERS = ("feddat.adapters.bottleneck", "feddat.adapters.soft_prompt")


def register_with_peft() -> None:
    """Register the tuners now if PEFT is loaded, otherwise when it is imported."""
    if PEFT in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _Finder())


def _register() -> None:
    for name in TUNERS:
        import_module(name)


class _Finder(MetaPathFinder):
    """Find PEFT through the other finders, and wrap its loader; merely checking for PEFT has no effect."""

    def __init__(self) -> None:
        self._looking = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        if name != PEFT or getattr(self._looking, "now", False):
            return None
        self._looking.now = True
        try:
            spec = find_spec(name)
        finally:
            self._looking.now = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Load PEFT with its own loader, then register the tuners."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()
