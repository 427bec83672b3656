"""One Unicode form for every text that people write: questions, answers, names of files and of clients.

The same word can be stored in several ways (https://www.unicode.org/reports/tr15/): "é" as one character or as two, a
letter in full width, a non-breaking space. They look alike, so they must compare as equal.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

#: Invisible characters: byte order mark, zero-width space, word joiner, soft hyphen, direction marks. The joiners
#: U+200C and U+200D stay: emoji and some scripts need them.
_INVISIBLE = "\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
#: Spaces of other widths, and non-breaking spaces.
_SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
#: Halves of UTF-16 surrogate pairs, left behind by truncated emoji; no file and no tokenizer accepts them.
_HALVES = dict.fromkeys(range(0xD800, 0xE000), "\ufffd")
#: Characters with the same meaning in an answer: typographic quotation marks, apostrophes, hyphens and minus.
_SIGNS = {"'": "‘’‚‛ʼ′", '"': "“”„‟″", "-": "‐‑‒–−"}


def _widths() -> dict[int, str]:
    """Return the code point of every full-width and half-width character -> the character in normal width."""
    tagged = {code: unicodedata.decomposition(chr(code)).split() for code in range(0xFF01, 0xFFEF)}
    return {code: chr(int(parts[1], 16)) for code, parts in tagged.items() if parts}


_WIDTHS = _widths()
#: Punctuation keeps its width in a text: the full-width question mark is the usual one in Chinese.
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


#: The least similarity of a misspelt word: one wrong character in five is a typo, one in four makes another word.
_NEAR = 0.76
#: The longest word to compare, in characters.
_LONGEST_WORD = 64


@lru_cache(maxsize=1 << 16)
def normal_text(text: str) -> str:
    """Return a text in normal form: NFC, plain spaces, letters and digits in normal width, no invisible characters.

    Letter case, punctuation, line ends and the number of spaces stay as they are.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text.translate(_IN_TEXT))


@lru_cache(maxsize=1 << 16)
def normal_answer(answer: str) -> str:
    """Return an answer for comparison: :func:`normal_text` in lower case, normal-width punctuation, single spaces.

    Typographic apostrophes, quotation marks and hyphens become plain ASCII ones.
    """
    text = normal_text(answer)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text.translate(_IN_ANSWER).lower())
    return " ".join(text.lower().split())


def find_file(path: Path) -> Path:
    """Return the file or folder with this name, or with the same name in another Unicode form; otherwise the path.

    Systems store names in different forms, and archives carry names from one system to another.
    """
    try:
        if str(path).isascii() or path.exists():
            return path
        parent = find_file(path.parent)
        same = _listing(parent, parent.stat().st_mtime_ns).get(normal_text(path.name), [])
    except (OSError, ValueError):  # no such folder, or an invalid name
        return path
    return same[0] if len(same) == 1 else path


@lru_cache(maxsize=16)
def _listing(folder: Path, changed: int) -> dict[str, list[Path]]:
    """Return a folder's entries by the normal form of their names; ``changed`` makes the cache follow changes."""
    found: dict[str, list[Path]] = {}
    for entry in folder.iterdir():
        found.setdefault(normal_text(entry.name), []).append(entry)
    return found


def nearest(word: str, known: Iterable[str]) -> list[str]:
    """Return up to three known words that ``word`` may be a misspelling of, the most similar first; or none.

    Parts of dotted names are compared separately, and a word without a dot is also compared with the last part: ``lr``
    is near ``train.lr``.
    """
    if len(word) > _LONGEST_WORD:
        return []
    possible = (name for name in known if len(name) <= _LONGEST_WORD)
    scored = sorted((-_likeness(word.lower(), name.lower()), name) for name in possible)
    return [name for likeness, name in scored if likeness <= min(-_NEAR, scored[0][0])][:3]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a suggestion to append to a message about an unknown word; empty if no known word is near."""
    near = nearest(word, known)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _likeness(word: str, name: str) -> float:
    (section, _, last), (other, _, known) = word.rpartition("."), name.rpartition(".")
    if not section:
        return max(_ratio(word, name), _ratio(word, known))
    return max(min(_ratio(section, other), _ratio(last, known)), _NEAR * (last == known))


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
