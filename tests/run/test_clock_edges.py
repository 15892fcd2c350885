"""Time is monotonic, and the device has done all it was given at both edges of a window."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
import torch
from small import write_suite

import harness
from harness import app
from harness.run import train, worker
from harness.run.events import Window

ROOT = Path(harness.__file__).parent
WALL = {
    ("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("datetime", "utcnow"), ("datetime", "today"),
}  # fmt: skip
ANCHORS = {
    "run/worker.py": "one wall-clock anchor for each run",
    "meter/external/clock.py": "another machine's readings carry its wall clock, which is aligned here",
}


def wall_clocks(path: Path) -> list[int]:
    """Lines of a module that look at the wall clock."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in WALL
    ]


def test_nothing_is_timed_by_the_wall_clock():
    found = {p.relative_to(ROOT).as_posix(): lines for p in ROOT.rglob("*.py") if (lines := wall_clocks(p))}
    assert found.keys() == ANCHORS.keys()
    assert all(len(lines) == 1 for lines in found.values())


def test_a_wall_clock_that_is_set_back_changes_no_window(tmp_path, monkeypatch):
    back = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(back)))
    _, planned = app.make_plan(write_suite(tmp_path / "s.yaml", steps=4), [], None, None, None, tmp_path / "set")
    events = []
    worker.work(planned.runs[0].spec, events.append, lambda: None)
    windows = [event for event in events if isinstance(event, Window)]
    assert windows
    assert all(0 < window.end_ns - window.start_ns < 60e9 for window in windows)


@pytest.mark.parametrize("arm", ["dense", "sat"])
def test_the_device_is_synchronised_at_both_edges_and_nowhere_else(tmp_path, monkeypatch, arm):
    _, planned = app.make_plan(write_suite(tmp_path / "s.yaml", steps=12), [], None, None, None, tmp_path / "set")
    spec = next(run.spec for run in planned.runs if run.spec.arm == arm)
    syncs: list[tuple[int, int]] = []

    def synchronize(device: torch.device) -> None:
        begin = time.monotonic_ns()
        time.sleep(1e-4)  # a device that still works
        syncs.append((begin, time.monotonic_ns()))

    monkeypatch.setattr(train, "synchronize", synchronize)
    events = []
    worker.work(spec, events.append, lambda: None)
    windows = [event for event in events if isinstance(event, Window)]
    assert len(syncs) == 2 * len(windows)
    for window, (before, after) in zip(windows, zip(syncs[::2], syncs[1::2], strict=True), strict=True):
        assert before[1] <= window.start_ns  # all that came before is done when it begins
        assert window.start_ns <= after[0]  # nothing waits inside
        assert after[1] <= window.end_ns  # and its own work is done when it ends
