"""Names that a results folder may hold: each means something to an output that takes names for more than text."""

from __future__ import annotations

import re

HOSTILE = [
    r"US$5 and \foo$", "$\\frac{1}{", "nul\x00byte", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\x9b2J", "back\x08\x08space",
    "two\nlines", "carriage\rreturn", "tab\there", "=cmd|'/c calc'!A0", "+1+1", "-2+3", "@SUM(A1)", " =1+1", "[red]rich[/red]",
    "[/]", ":smile:", "%j_%A", "a|b", "`code` **bold** [x](http://a.b)", "# heading", "1. list", "<script>alert(1)</script>",
    "<!--", "&amp;", "{{ 7 * 7 }}", "{% raw %}", "%s %(x)s {0}", r"\input{/etc/passwd}", "https://example.org", "\u202egnp.exe",
    "\u2028line", "\ufeffbom", "x" * 300, " ", "../../../victim", "/etc/passwd", "NaN", "null", "日本語", "😀",
]  # fmt: skip

# What a terminal, a spreadsheet or a parser could obey: nothing that vpbench prints or writes as text has it.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
