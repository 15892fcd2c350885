"""Puts the table that a study makes into the document that speaks of it, between two comments that bear its name."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def put(text: str, name: str, table: str) -> str:
    """The text with a table between the markers of a name.

    Raises:
        ValueError: no such markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"no markers {begin} ... {end}")
    return f"{before}{begin}\n{table}\n{end}{after}"


def write(document: str, tables: dict[str, str]) -> None:
    """Put tables into a document of ``docs/``, by name; all of them or none.

    Raises:
        ValueError: a marker is missing.
    """
    path = DOCS / document
    text = path.read_text(encoding="utf-8")
    for name, table in tables.items():
        text = put(text, name, table)
    path.write_text(text, encoding="utf-8")
    print(f"written into {path}", file=sys.stderr)
