"""What was done to a client's pictures that its owner should know of: counted, and told once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from threading import Lock


class Note(StrEnum):
    """What may be told, as it stands behind a number of pictures."""

    DAMAGED = "damaged or unusual JPEG, read as other viewers read it"
    METADATA = "with damaged metadata, which is passed over"
    ORIENTATION = "with an orientation of a wrong type, which is followed"
    INCOMPLETE = "cut short: what is missing is black or grey"
    FRAMES = "with several pictures in the file: one is read (pictures.frame)"
    FULL_RANGE = "of 16 bits: 0 to 65535 became 0 to 255"
    DECLARED_RANGE = "of more than 8 bits: the range that the file declares became 0 to 255"
    PERCENTILES = "of more than 8 bits: the range between percentiles 0.5 and 99.5 became 0 to 255"
    UNIT_RANGE = "of floating-point numbers: 0 to 1 became 0 to 255"
    UPPER_BITS = "in colours of 16 bits: the upper 8 are read"
    FLAT = "of little contrast, in less than a sixteenth of that range: pictures.grey=percentiles spreads it"
    WINDOW = "from DICOM: window and rescale as the file says"
    NO_WINDOW = "from DICOM without a window: the range of the bits stored became 0 to 255"
    PROFILE = "converted from their colour profile to sRGB"
    PADDED = "too narrow for the model: padded with white"


class Notes:
    """How many pictures there is what to tell of. Threads may share it."""

    def __init__(self) -> None:
        self.counts: Counter[Note] = Counter()
        self._told: set[Note] = set()
        self._lock = Lock()

    def add(self, note: Note) -> None:
        """Count one picture."""
        with self._lock:
            self.counts[note] += 1

    def news(self) -> str:
        """Return in one line what was not told before; empty where there is nothing."""
        with self._lock:
            new = {note: count for note, count in self.counts.items() if note not in self._told}
            self._told.update(new)
        return told(new)


def told(counts: Mapping[Note, int]) -> str:
    """Return counts in one line, in the order of :class:`Note`."""
    return "; ".join(f"{counts[note]} {note}" for note in Note if counts.get(note))
