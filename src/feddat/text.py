"""One Unicode form for every text that people write: questions, answers, names of files and of clients.

The same word can be stored in several ways (https://www.unicode.org/reports/tr15/): "é" as one character or as two, a
letter in the width of Chinese signs, a space that keeps a line together. They look alike, so they must compare alike.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

#: Characters that show nothing: byte order mark, zero-width space, word joiner, soft hyphen, marks of direction. The
#: joiners U+200C and U+200D stay: emoji and some scripts need them.
_INVISIBLE = "\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
#: Spaces of other widths, and those at which a line is not broken.
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
#: Half of a pair of UTF-16, which cut-off emoji leave behind: no file and no tokenizer takes it.
_HALVES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
#: Signs of one meaning in an answer: typographic quotation marks, apostrophes, hyphens and minus.
_SIGNS = {"'": "‘’‚‛ʼ′", '"': "“”„‟″", "-": "‐‑‒–−"}


def _widths() -> dict[int, str]:
    """Return full-width and half-width characters with what they are in the usual width."""
    tagged = {code: unicodedata.decomposition(chr(code)).split() for code in range(0xFF01, 0xFFEF)}
    return {code: chr(int(parts[1], 16)) for code, parts in tagged.items() if parts}


_WIDTHS = _widths()
#: Marks keep their width in a text, where a full-width question mark is the usual one of Chinese.
_LETTER_WIDTHS = {code: usual for code, usual in _WIDTHS.items() if unicodedata.category(chr(code))[0] in "LN"} | {
    code: _WIDTHS[code]
    for code in (0xFF9E, 0xFF9F)  # the marks that voice half-width katakana
}
_IN_TEXT: dict[int, str] = {
    **_HALVES,
    **dict.fromkeys(map(ord, _INVISIBLE), ""),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **_LETTER_WIDTHS,
}
_IN_ANSWER: dict[int, str] = {**_WIDTHS, **{ord(sign): usual for usual, signs in _SIGNS.items() for sign in signs}}


#: Likeness of words of which one is a slip of the pen: one wrong character of five is, one of four is another word.
_NEAR = 0.76
#: Characters of what is compared at all.
_LONGEST_WORD = 64


@lru_cache(maxsize=1 << 16)
def normal_text(text: str) -> str:
    """Return a text in its one form: NFC, spaces as spaces, letters and digits in usual width, nothing invisible.

    Letter case, marks, line ends and the number of spaces stay as they are.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_IN_TEXT))


@lru_cache(maxsize=1 << 16)
def normal_answer(answer: str) -> str:
    """Return an answer as answers are compared: :func:`normal_text` in lower case, marks of usual width, single spaces.

    Typographic apostrophes, quotation marks and hyphens become those of a keyboard.
    """
    text = normal_text(answer)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_IN_ANSWER).lower())
    return " ".join(text.lower().split())


def find_file(path: Path) -> Path:
    """Return the file or folder of this name, or of the same name in another Unicode form; else the path as it is.

    Systems differ in the form in which they store names, and archives carry them from one to the other.
    """
    try:
        if str(path).isascii() or path.exists():
            return path
        parent = find_file(path.parent)
        same = _listing(parent, parent.stat().st_mtime_ns).get(normal_text(path.name), [])
    except (OSError, ValueError):  # no such folder, or a name that cannot be one
        return path
    return same[0] if len(same) == 1 else path


@lru_cache(maxsize=16)
def _listing(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Return what a folder holds by the one form of each name, as it was when it last changed."""
    found: dict[str, list[Path]] = {}
    for entry in folder.iterdir():
        found.setdefault(normal_text(entry.name), []).append(entry)
    return found


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return the known words that someone who wrote ``word`` may have meant: the nearest, or several as near; or none.

    Of dotted names each part is compared by itself, and a word without a dot also with the last part alone: ``lr`` is
    near ``train.lr``.
    """
    if len(word) > _LONGEST_WORD:
        return []
    possible = (name for name in known if len(name) <= _LONGEST_WORD)
    scored = sorted((-_likeness(word.lower(), name.lower()), name) for name in possible)
    return [name for likeness, name in scored if likeness <= min(-_NEAR, scored[0][0])][:3]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a question that follows a message about an unknown word; empty where no known one is near."""
    near = nearest(word, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _likeness(word: str, name: str) -> float:
    (section, _, last), (other, _, known) = word.rpartition("."), name.rpartition(".")
    if not section:
        return max(_ratio(word, name), _ratio(word, known))
    return max(min(_ratio(section, other), _ratio(last, known)), _NEAR * (last == known))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
