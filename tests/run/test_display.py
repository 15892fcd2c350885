"""Where there is no terminal: one plain line per run, on the stream it was given."""

from __future__ import annotations

from io import StringIO

from synthetic import Planted, records

from harness.record.record import Status
from harness.run.display import LiveDisplay
from harness.suite.spec import PlannedRun, Protocol


def test_one_plain_line_a_run():
    stream = StringIO()
    display = LiveDisplay(stream)
    found = [
        *records(("1M",), (0,), {"sat": Planted(0.5)}, statuses={("1M", 0, "sat"): Status.FAILED}),
        *records(("13B",), (0,), {}, protocol=Protocol.COUNT),
    ]
    display.expect([PlannedRun(spec=record.spec) for record in found])
    for number, record in enumerate(found, start=1):
        display.start(PlannedRun(spec=record.spec), number, len(found))
        display.end(record)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert all(line == line.rstrip() and "\x1b" not in line for line in lines)
    assert lines[0].startswith("✓ [1/3]    1M s0 dense")
    assert "(modelled)" in lines[0]
    assert lines[1].startswith("✗ [2/3]    1M s0 sat")
    assert lines[1].endswith("failed: timed out after 3600 s")
    assert lines[2].endswith("FLOPs (counted)")
