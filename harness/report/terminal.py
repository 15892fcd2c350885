"""The verdict table for a terminal, at the end of `run` and from `verify`."""

from __future__ import annotations

import shutil
from io import StringIO

from rich.table import Table
from rich.text import Text

from harness.console import Console
from harness.judge.types import Judgement, Verdict, VerdictStatus
from harness.report.formats import sentences
from harness.types import Basis

STYLES = {
    VerdictStatus.VERIFIED: "bold green",
    VerdictStatus.REFUTED: "bold red",
    VerdictStatus.INCONCLUSIVE: "yellow",
    VerdictStatus.INVALID: "bold magenta",
    VerdictStatus.NOT_TESTED: "dim",
}


def verdict_table(judgement: Judgement, *, width: int | None = None, colour: bool = False) -> str:
    """Claim, verdict and reason, one row each; claims that were not tested are only counted."""
    table = Table(title=f"{judgement.title}: verdicts ({judgement.basis.value} energy)", title_justify="left")
    table.add_column("claim", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("reason", overflow="fold")
    tested = [verdict for verdict in judgement.verdicts if verdict.status is not VerdictStatus.NOT_TESTED]
    for verdict in tested:
        table.add_row(verdict.claim.id, Text(verdict.status.value, style=STYLES[verdict.status]), _reason(verdict))
    columns = width or shutil.get_terminal_size((100, 24)).columns
    console = Console(file=StringIO(), width=columns, force_terminal=colour)
    console.print(table)
    others = [verdict.claim.id for verdict in judgement.verdicts if verdict.status is VerdictStatus.NOT_TESTED]
    if others:
        console.print(f"not tested: {', '.join(others)} (the page says what each would take)")
    if judgement.headline:
        console.print(judgement.headline)
    if judgement.basis is Basis.SIMULATED:
        console.print("SIMULATED: a made-up instrument. No energy here was measured, and none decides anything.")
    stream = console.file
    assert isinstance(stream, StringIO)
    return stream.getvalue().rstrip()


def _reason(verdict: Verdict) -> str:
    """The first sentence each of the reason and of the attribution; the page has the rest."""
    parts = [sentences(verdict.reason)[0], sentences(verdict.attribution)[0]]
    if any(check.estimate is not None and check.estimate.basis is Basis.SIMULATED for check in verdict.checks):
        parts.insert(0, "[simulated]")
    elif verdict.model_says:
        parts.insert(0, f"[{verdict.model_says}]")
    return " ".join(part for part in parts if part)
