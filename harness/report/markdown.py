"""Markdown tables, and the whole report as Markdown for a comment on a change."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SPECIAL = re.compile(r"([\\`*_\[\]<>|#])")


def escape(words: str) -> str:
    """Words that stay words: nothing in them is markup, a cell or a line break."""
    return _SPECIAL.sub(r"\\\1", " ".join(words.split()))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; every cell is escaped, bold (``**``) at a cell's start is kept."""
    if not rows:
        return "Nothing to show."
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(words: str) -> str:
    bold = re.fullmatch(r"(.*?)\*\*(.+)\*\*", words)
    if bold:
        return f"{escape(bold.group(1))} **{escape(bold.group(2))}**".lstrip()
    return escape(words)
