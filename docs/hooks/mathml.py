"""Convert equations to MathML, which browsers draw without scripts, fonts or other resources."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

#: An equation in the output of arithmatex: inline or display, and the LaTeX between its marks.
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: object) -> str:
    """Replace every equation of a page."""
    return EQUATION.sub(_drawn, html)


def _drawn(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    return f'<{match[1]} class="equation">{convert(html.unescape(match[2]).strip(), display=display)}</{match[1]}>'
