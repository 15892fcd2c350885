"""Tables that studies put into documents."""

from __future__ import annotations

import re
from pathlib import Path

import document_tables
import pytest

ROOT = Path(__file__).parents[2]
TEXT = "a\n<!-- t: begin -->\nold\n<!-- t: end -->\nb\n<!-- u: begin -->\n<!-- u: end -->\n"


def test_a_table_goes_between_its_markers_and_nowhere_else() -> None:
    once = document_tables.put(TEXT, "t", "| x |")
    assert once == TEXT.replace("old", "| x |")
    assert document_tables.put(once, "t", "| x |") == once


@pytest.mark.parametrize("text", ["", "<!-- t: begin -->", "<!-- t: end -->\n<!-- t: begin -->"])
def test_a_marker_that_is_missing_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="no markers <!-- t: begin -->"):
        document_tables.put(text, "t", "| x |")


def test_nothing_is_written_where_one_of_several_has_no_place(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(document_tables, "DOCS", tmp_path)
    (tmp_path / "page.md").write_text(TEXT)
    with pytest.raises(ValueError, match="v: begin"):
        document_tables.write("page.md", {"t": "| x |", "v": "| y |"})
    assert (tmp_path / "page.md").read_text() == TEXT
    document_tables.write("page.md", {"t": "| x |", "u": "| y |"})
    assert (tmp_path / "page.md").read_text().count("\n| ") == 2


def test_every_place_that_a_study_writes_to_is_there() -> None:
    written = []
    for study in sorted((ROOT / "studies").glob("*.py")):
        for document, tables in re.findall(r'document_tables\.write\("([\w-]+\.md)", \{(.*?)\}\)', study.read_text()):
            text = (ROOT / "docs" / document).read_text(encoding="utf-8")
            for name in re.findall(r'"([\w-]+)":', tables):
                written.append(name)
                document_tables.put(text, name, "| x |")
    assert {"meter_accuracy", "step_aliasing", "sampler_on_off", "accuracy", "faults"} <= set(written)
