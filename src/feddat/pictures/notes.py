"""Changes to a client's pictures that their owner should know about: counted, and reported once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from threading import Lock


class Note(StrEnum):
    """One kind of change; the text follows a number of pictures."""

    DAMAGED = "damaged or unusual JPEG, read as other viewers do"
    METADATA = "with damaged metadata, which is ignored"
    ORIENTATION = "with an orientation of a wrong type, which is applied"
    INCOMPLETE = "truncated: the missing part is black or grey"
    FRAMES = "with several pictures in the file: pictures.frame chooses one"
    FULL_RANGE = "of 16 bits: 0 to 65535 became 0 to 255"
    DECLARED_RANGE = "of more than 8 bits: the range that the file declares became 0 to 255"
    PERCENTILES = "of more than 8 bits: the range between percentiles 0.5 and 99.5 became 0 to 255"
    UNIT_RANGE = "of floating-point numbers: 0 to 1 became 0 to 255"
    UPPER_BITS = "with 16 bits per colour: only the upper 8 are read"
    FLAT = "of low contrast, using less than a sixteenth of that range: pictures.grey=percentiles increases it"
    WINDOW = "from DICOM: window and rescale come from the file"
    NO_WINDOW = "from DICOM without a window: the range of the stored bits became 0 to 255"
    PROFILE = "converted from their colour profile to sRGB"
    PADDED = "too narrow for the model: padded with white"


class Notes:
    """Counts of pictures per kind of change. Threads can share it."""

    def __init__(self) -> None:
        self.counts: Counter[Note] = Counter()
        self._told: set[Note] = set()
        self._lock = Lock()

    def add(self, note: Note) -> None:
        """Count one picture."""
        with self._lock:
            self.counts[note] += 1

    def news(self) -> str:
        """Return the kinds of change not reported before as one line; empty if there are none."""
        with self._lock:
            new = {note: count for note, count in self.counts.items() if note not in self._told}
            self._told.update(new)
        return told(new)


def told(counts: Mapping[Note, int]) -> str:
    """Return counts as one line, in the order of :class:`Note`."""
    return "; ".join(f"{counts[note]} {note}" for note in Note if counts.get(note))
