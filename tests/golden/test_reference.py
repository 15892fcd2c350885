"""The published result sets stand up to the audit, and their pages are what their records give.

After a change of the page: ``python -m harness report results/reference-X -o reports/reference-X.html``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import app

ROOT = Path(__file__).resolve().parents[2]
SETS = sorted(path.name for path in (ROOT / "results").glob("reference-*"))


def test_there_is_one():
    assert SETS


@pytest.mark.parametrize("name", SETS)
def test_every_number_follows_from_the_raw_samples(name):
    assert app.audit(ROOT / "results" / name).findings == []


@pytest.mark.parametrize("name", SETS)
def test_the_page_is_what_the_records_give(name):
    page = (ROOT / "reports" / f"{name}.html").read_text(encoding="utf-8")
    assert app.render(ROOT / "results" / name, "html") == page
