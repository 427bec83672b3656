"""Hold a round's replies until the server knows which to use: in memory, and above a limit in a file.

The mean needs only one reply at a time, but outliers can be found only when all replies have arrived.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO

import numpy as np
from numpy.typing import NDArray

from feddat.app.messages import Member, TrainReply

log = logging.getLogger(__name__)

#: Bytes of arrays to keep in memory; later arrays go to an anonymous temporary file.
IN_MEMORY = 256 * 2**20


@dataclass
class HeldReplies:
    """The replies of one round, in the order in which they were added.

    Attributes:
        most: bytes of arrays to keep in memory.
    """

    most: int = IN_MEMORY
    _replies: list[tuple[Member, TrainReply]] = field(default_factory=list)
    _bytes: int = 0
    _file: IO[bytes] | None = None

    def add(self, member: Member, reply: TrainReply) -> None:
        """Keep a reply."""
        size = sum(value.nbytes for part in (reply.shared, reply.extras) for value in part.values())
        if self._bytes + size > self.most:
            reply = self._moved(reply)
        else:
            self._bytes += size
        self._replies.append((member, reply))

    def taken(self) -> Iterator[tuple[Member, TrainReply]]:
        """Yield the replies, and release each one when the next is requested."""
        while self._replies:
            yield self._replies.pop(0)
        if self._file is not None:
            self._file.close()

    def _moved(self, reply: TrainReply) -> TrainReply:
        """Return a reply whose arrays are read from the file on use; if the disk is full, return the reply itself."""
        try:
            return replace(reply, shared=self._written(reply.shared), extras=self._written(reply.extras))
        except OSError as error:
            log.warning("a reply stays in memory: %s", error.strerror or error)
            return reply

    def _written(self, values: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="feddat-")  # noqa: SIM115  (closed after the last reply)
        found: dict[str, NDArray[np.float32]] = {}
        for key, value in values.items():
            begin = self._file.seek(0, 2)
            self._file.write(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)
            self._file.flush()
            mapped = np.memmap(self._file, value.dtype, "r", begin, value.shape) if value.size else value
            found[key] = np.asarray(mapped)
        return found
