"""Text for an output that would interpret a part of it: one function per kind of output, for names that come from files.

A name of a data set, method or backbone is data. It may hold what a terminal obeys, what LaTeX, Markdown, a spreadsheet or XML
reads as markup, or what a font cannot draw. Everything that writes such names calls the function of its output.
"""

from __future__ import annotations

import re
from typing import Any

_UNSEEN = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but line feed and tab
    "\u2028\u2029\ufeff\ufffe\uffff"  # separators of lines, and what is no character
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reverse the direction of text
    "\ud800-\udfff"  # halves of surrogate pairs, which no encoding has
    "]"
)

_TEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "±": r"$\pm$", "\u00d7": r"$\times$", "\u2013": "--",
}  # fmt: skip

# What a spreadsheet takes for a formula; the last four are full-width forms.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


def visible(text: str) -> str:
    r"""``text`` with control characters as what Python writes for them (``\x1b``); line feeds and tabs stay."""
    return _UNSEEN.sub(_written, text)


def one_line(text: str) -> str:
    r"""The same with line feeds and tabs as ``\n`` and ``\t``, for a name in a line, a cell or a title."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def _written(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def for_markdown(text: str) -> str:
    """For a cell or a paragraph of GitHub's Markdown."""
    text = re.sub(r"([\\|*_`<>\[\]&~$])", r"\\\1", one_line(text))
    text = re.sub(r"(?=://)|(?<!\d)(?=:[\w+-]+:)|(?<=www)(?=\.)", r"\\", text)  # no addresses, and no :smile:
    return re.sub(r"^(\d*)(?=[.)]\s|(?:[+-]|#+)\s)", r"\1\\", text)  # no heading, no list


def for_latex(text: str) -> str:
    """For running text of LaTeX, and for a cell: what follows the end of a row could be read as its argument."""
    escaped = "".join(_TEX.get(character, character) for character in one_line(text))
    return f"{{{escaped[0]}}}{escaped[1:]}" if escaped.startswith(("[", "*")) else escaped


def for_html(text: str) -> str:
    """For the content of an element, or an attribute in quotes."""
    from html import escape  # here, as the command line imports this module first of all

    return escape(visible(text))


def for_spreadsheet(text: str) -> str:
    """For a cell of a CSV file: what a spreadsheet would compute begins with an apostrophe, and is shown as text."""
    text = visible(text)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def as_json(value: Any, indent: int | None = 2) -> str:
    """JSON that stays readable, with every control character written as JSON does; its content is unchanged."""
    import json

    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
