"""What the code is busy with at a moment, for whoever measures it; costs one look at a variable where nobody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Literal, ParamSpec, Protocol, TypeAlias, TypeVar

#: What time is spent on.
#:
#: ``loading``: the model, and what data there is. ``inputs``: reading, decoding, tokenising, batching. ``prefix``: the
#: frozen layers below the first adapter, where their states are kept. ``forward``: with losses. ``evaluation``: forward
#: passes and scores without gradients. ``messages``: packing, reading and checking them. ``checkpoints``: personal
#: states and the server's, written and restored.
Phase: TypeAlias = Literal[
    "loading", "inputs", "prefix", "forward", "backward", "update", "evaluation", "messages", "checkpoints", "other"
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Listener(Protocol):
    """Is told what the code is busy with."""

    def phase(self, name: Phase) -> AbstractContextManager[object]:
        """Return a context that lasts as long as the phase; phases lie within each other."""
        ...


_listener: Listener | None = None


def phase(name: Phase) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Name what a function's time is spent on, but for that of functions in it with names of their own."""

    def named(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @wraps(function)
        def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if _listener is None:
                return function(*args, **kwargs)
            with _listener.phase(name):
                return function(*args, **kwargs)

        return called

    return named


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` inside the block; one at a time.

    Raises:
        RuntimeError: somebody is listening already.
    """
    global _listener
    if _listener is not None:
        raise RuntimeError("phases: somebody is listening already")
    _listener = listener
    try:
        yield
    finally:
        _listener = None
