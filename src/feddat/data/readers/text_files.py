"""Text files in the encodings that programs use: UTF-8, UTF-16 and, for tables, Windows-1252.

Excel saves "CSV" in the code page of its machine and "Unicode text" as UTF-16; PowerShell redirects output as UTF-16.
The log names every encoding other than plain UTF-8 once, so that a wrong guess is visible.
"""

from __future__ import annotations

import codecs
import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TextIO

from feddat.example import DataError

log = logging.getLogger(__name__)

#: Maximum length of a line in characters (no record is longer), and number of bytes to read at a time.
LONGEST_LINE, CHUNK = 64 * 2**20, 2**20
#: Byte order mark -> encoding; longer marks first, since they begin with shorter ones.
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: Bytes that never occur in text of a single-byte encoding: control characters except tab, line ends and form feed.
_NO_TEXT = re.compile(rb"[\x00-\x08\x0b\x0e-\x1f]")
_LEGACY = "cp1252"


def text_encoding(path: Path, guess: bool = False) -> str:
    """Return Python's name for the encoding of a text file, and log it unless it is UTF-8.

    Args:
        path: the file.
        guess: read a file without a Unicode encoding as Windows-1252, the encoding of Excel's "CSV" in western
            countries.

    Raises:
        DataError: the file is not text, or has no Unicode encoding and ``guess`` is false; names the line.
    """
    with path.open("rb") as file:
        start = file.read(4096)
    if start[:1] in (b"\xff", b"\xfe", b"\xef", b"\x00"):
        for mark, name in _MARKS.items():
            if start.startswith(mark):
                return _told(path, name)
    # In UTF-16 without its mark, every other byte of Latin letters, digits and punctuation is zero.
    for first, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = start[first::2].count(0), start[1 - first :: 2].count(0)
        if len(start) >= 4 and others == 0 and 2 * zeros > len(start[first::2]):
            return _told(path, name)
    line, reason = _first_bad_line(path)
    if line is None:
        return "utf-8"
    if guess and (sample := _legacy_sample(path)):
        announce(
            logging.WARNING,
            f"{path}: not UTF-8; read as Windows-1252, in which line {line} has {sample!r}; if that is wrong, save it "
            "as UTF-8",
        )
        return _LEGACY
    raise DataError(f"{path}, line {line}: not UTF-8 text: {reason}; save it as UTF-8")


def read_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of an open text file.

    Raises:
        DataError: a line is longer than :data:`LONGEST_LINE`, or cannot be decoded.
    """
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(LONGEST_LINE + 1)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number} or later: not {error.encoding} text: {error.reason}") from None
        if not line:
            return
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE >> 20} Mi characters")
        yield line


@lru_cache(maxsize=1024)
def announce(level: int, message: str) -> None:
    """Log how a file is read, once per process."""
    log.log(level, "%s", message)


def _told(path: Path, encoding: str) -> str:
    if encoding != "utf-8-sig":
        announce(logging.INFO, f"{path}: read as {encoding[:6].upper()}")
    return encoding


def _first_bad_line(path: Path) -> tuple[int | None, str]:
    """Return the number (from 1) of the first line that is not UTF-8 text, and why; ``None`` if all lines are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(CHUNK)
            if (zero := chunk.find(0)) >= 0:
                return line + chunk.count(b"\n", 0, zero), "a zero byte"
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder puts leftover bytes of the previous chunk in front; they contain no line end.
                return line + error.object.count(b"\n", 0, error.start), error.reason
            if not chunk:
                return None, ""
            line += chunk.count(b"\n")


def _legacy_sample(path: Path) -> str:
    """Return the first non-ASCII word of a file in Windows-1252; empty if the file has another encoding."""
    found = ""
    with path.open("rb") as file:
        for raw in iter(lambda: file.read(CHUNK), b""):
            if _NO_TEXT.search(raw):
                return ""
            try:
                text = raw.decode(_LEGACY)
            except UnicodeDecodeError:
                return ""
            if not found and (word := re.search(r"\w*[^\x00-\x7f]\w*", text)):
                found = word[0][:40]
    return found
