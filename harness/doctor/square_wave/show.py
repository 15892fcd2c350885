"""The experiment as a table for a terminal or a file."""

from __future__ import annotations

from harness.doctor.square_wave.analysis import Row
from harness.doctor.square_wave.experiment import Experiment
from harness.types import Basis

HEADER = ("period", "duty", "known mean", "sensor off by", "counter off by", "share", "the counter")


def text(found: Experiment) -> str:
    """Source, table, answer."""
    findings = found.findings
    swing_w = findings.on_w - findings.off_w
    rows = [HEADER, *(_cells(row, swing_w) for row in findings.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    made_up = ["SIMULATED: a made-up card, nothing was measured", ""] if found.basis is Basis.SIMULATED else []
    return "\n".join(
        [
            *made_up,
            found.source,
            f"under load {findings.on_w:.1f} W, at rest {findings.off_w:.1f} W (counter); "
            f"{findings.sensor_on_w:.1f} and {findings.sensor_off_w:.1f} W (sensor, every "
            f"{findings.sensor_period_s * 1e3:g} ms); switching costs {findings.switching_j * 1e3:.0f} mJ",
            "",
            *lines,
            "",
            f"The energy counter {findings.answer}: {findings.why}."
            if findings.answer != "can't tell"
            else f"Can't tell: {findings.why}.",
            *([f"raw samples: {found.samples}"] if found.samples else []),
        ]
    )


def _cells(row: Row, swing_w: float) -> tuple[str, ...]:
    share = (
        "-"
        if row.share is None or row.share_uncertainty is None
        else f"{row.share:.2f} ± {2 * row.share_uncertainty:.2f}"
    )
    return (
        f"{row.period_s * 1e3:g} ms",
        f"{100 * row.duty:.1f} %",
        f"{row.known_w:.1f} W",
        f"{row.sensor_off_w:+.1f} ± {2 * row.sensor_uncertainty_w:.1f} W",
        f"{row.counter_off_w:+.1f} ± {2 * row.counter_uncertainty_w:.1f} W",
        share,
        row.answer + (f" ({row.why})" if row.why else ""),
    )
