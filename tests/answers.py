"""The command line called in this process, and what it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from harness import cli


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


Harness = Callable[..., Answer]


def harness_in_process(capture: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *verb: str) -> Harness:
    """``call("verify", folder)``; ``verb`` are words before those of every call."""

    def call(*arguments: str | Path) -> Answer:
        monkeypatch.setattr(sys, "argv", ["harness", *verb, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capture.readouterr()
        assert "Traceback" not in captured.err
        return Answer(int(ended.value.code or 0), captured.out, captured.err)

    return call
