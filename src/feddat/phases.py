"""Tell a profiler what the code is currently doing; without one, this costs one check of a variable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Literal, ParamSpec, Protocol, TypeAlias, TypeVar

#: What time is spent on.
#:
#: ``loading``: loading the model, and finding the data. ``inputs``: reading, decoding, tokenising, batching.
#: ``prefix``: the frozen layers below the first adapter, if their states are cached. ``forward``: forward passes and
#: losses. ``evaluation``: forward passes and scores without gradients. ``messages``: packing, reading and checking
#: messages. ``checkpoints``: writing and restoring personal states and the server's state.
Phase: TypeAlias = Literal[
    "loading", "inputs", "prefix", "forward", "backward", "update", "evaluation", "messages", "checkpoints", "other"
]

_P = ParamSpec("_P")
_R = TypeVar("_R")


class Listener(Protocol):
    """Learns what the code is doing."""

    def phase(self, name: Phase) -> AbstractContextManager[object]:
        """Return a context that lasts as long as the phase; phases can be nested."""
        ...


_listener: Listener | None = None


def phase(name: Phase) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Assign a function's time to a phase, except the time of inner functions with their own phases."""

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
    """Report phases to ``listener`` inside the block; only one listener at a time.

    Raises:
        RuntimeError: there is a listener already.
    """
    global _listener
    if _listener is not None:
        raise RuntimeError("phases: there is a listener already")
    _listener = listener
    try:
        yield
    finally:
        _listener = None
