"""Algorithms by name, from this package and from other installed packages.

Another package registers its algorithms as entry points of the group ``feddat.algorithms``
(`packaging.python.org, "Entry points specification"`)::

    [project.entry-points."feddat.algorithms"]
    trimmed = "my_package.trimmed:Trimmed"

An algorithm is available on every machine where its package is installed, and nowhere else. A server cannot make a
client load code that the client's own administrator has not installed. A notebook can add an algorithm to its own
process (:meth:`Registry.add`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points

from feddat.algorithms.base import Algorithm
from feddat.algorithms.declared import check_declared
from feddat.config import ConfigError

#: Group of entry points that name algorithms.
GROUP = "feddat.algorithms"


class Registry(Mapping[str, Algorithm]):
    """Name -> algorithm; algorithms of other packages are loaded at the first access.

    Args:
        own: the algorithms of this package; no other package can take their names.
    """

    def __init__(self, own: Sequence[Algorithm]) -> None:
        self._own = {algorithm.name: algorithm for algorithm in own}
        self._loaded: dict[str, Algorithm] = {}
        self._added: dict[str, Algorithm] = {}

    def add(self, algorithm: Algorithm) -> None:
        """Add an algorithm to this process only, as a notebook does; the same name again replaces it.

        Raises:
            ConfigError: a class attribute has a wrong value, or an algorithm of this or another package already has the
                name.
        """
        check_declared(type(algorithm), f"method {getattr(algorithm, 'name', type(algorithm).__name__)}")
        name = algorithm.name
        if name in self and name not in self._added:
            raise ConfigError(f"method {name}: this name is already taken; give your method another `name`")
        self._added[name] = algorithm

    def __iter__(self) -> Iterator[str]:
        """Yield the names, this package's first."""
        yield from self._own
        yield from (point.name for point in entry_points(group=GROUP) if point.name not in self._own)
        yield from self._added

    def __len__(self) -> int:
        """Return the number of algorithms."""
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Return whether an algorithm has this name, without loading it."""
        return any(name == known for known in self)

    def __getitem__(self, name: str) -> Algorithm:
        """Return the algorithm of a name.

        Raises:
            KeyError: no algorithm has this name.
            ConfigError: another package's algorithm cannot be loaded or is none; the message names the package.
        """
        for known in (self._own, self._added):
            if name in known:
                return known[name]
        if name not in self._loaded:
            points = [point for point in entry_points(group=GROUP) if point.name == name]
            if not points:
                raise KeyError(name)
            self._loaded[name] = _load(points)
        return self._loaded[name]

    @property
    def own(self) -> tuple[str, ...]:
        """Names of this package's algorithms."""
        return tuple(self._own)


def _load(points: Sequence[EntryPoint]) -> Algorithm:
    point = points[0]
    if len(points) > 1:
        packages = ", ".join(_package(each) for each in points)
        raise ConfigError(f"method {point.name}: several packages provide it ({packages}); uninstall all but one")
    where = f"method {point.name}, {point.value} of package {_package(point)}"
    try:
        found = point.load()
    except Exception as error:  # the import of another package's module can raise anything
        raise ConfigError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Algorithm)):
        raise ConfigError(f"{where}: expected a subclass of feddat.algorithms.Algorithm, got {found!r}")
    if getattr(found, "name", None) != point.name:
        raise ConfigError(f"{where}: its `name` is {getattr(found, 'name', None)!r}; expected {point.name!r}")
    check_declared(found, where)
    try:
        return found()
    except TypeError as error:  # __init__ needs arguments
        raise ConfigError(f"{where}: cannot be instantiated: {error}") from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else "?"
