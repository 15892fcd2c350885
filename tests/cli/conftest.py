"""The command line for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from answers import Harness, harness_in_process


@pytest.fixture
def harness_(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Harness:
    """``harness_("verify", folder)`` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return harness_in_process(capsys, monkeypatch)
