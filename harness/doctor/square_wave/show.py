"""The experiment as a table for a terminal or a file, in 80 columns."""

from __future__ import annotations

import textwrap

from harness.doctor.square_wave.analysis import ALL, OPEN, SHARES, Row
from harness.doctor.square_wave.experiment import Experiment
from harness.types import Basis

COLUMNS = 80
HEADER = ("period", "duty", "known W", "sensor off W", "counter off W", "share", "shared?")
SHARED = {SHARES: "yes", ALL: "no", OPEN: "can't tell"}


def text(found: Experiment) -> str:
    """Source, table, answer."""
    findings = found.findings
    rows = [HEADER, *map(_cells, findings.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons: dict[str, list[str]] = {}
    for row in findings.rows:
        if row.why:
            reasons.setdefault(row.why, []).append(f"{row.period_s * 1e3:g} ms")
    answer = f"The energy counter {findings.answer}" if findings.answer != OPEN else "Can't tell"
    lines = [
        *(["SIMULATED: a made-up card, nothing was measured", ""] if found.basis is Basis.SIMULATED else []),
        found.source,
        f"under load {findings.on_w:.1f} W, at rest {findings.off_w:.1f} W (counter); "
        f"{findings.sensor_on_w:.1f} and {findings.sensor_off_w:.1f} W (sensor, every "
        f"{findings.sensor_period_s * 1e3:g} ms); switching costs {findings.switching_j * 1e3:.0f} mJ",
        "",
        *table,
        "",
        "off: mean read less mean known, at the worst phase; share: of the sensor's error in the counter's; "
        "±: two standard uncertainties",
        *(f"can't tell at {', '.join(periods)}: {why}" for why, periods in reasons.items()),
        "",
        f"{answer}: {findings.why}.",
    ]
    raw = [f"raw samples: {found.samples}"] if found.samples else []
    return "\n".join([*(line if line in table else textwrap.fill(line, COLUMNS) for line in lines), *raw])


def _cells(row: Row) -> tuple[str, ...]:
    share = "-"
    if row.share is not None and row.share_uncertainty is not None:
        share = f"{row.share:.2f} ± {2 * row.share_uncertainty:.2f}"
    return (
        f"{row.period_s * 1e3:g} ms",
        f"{100 * row.duty:.0f} %",
        f"{row.known_w:.1f}",
        f"{row.sensor_off_w:+.1f} ± {2 * row.sensor_uncertainty_w:.1f}",
        f"{row.counter_off_w:+.1f} ± {2 * row.counter_uncertainty_w:.1f}",
        share,
        SHARED[row.answer],
    )
