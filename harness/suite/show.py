"""A plan for people: one table, blocks apart, what is skipped with its reason, what was assumed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

from harness.suite.plan import Plan
from harness.suite.spec import Block, PlannedRun, Protocol, levels_text
from harness.suite.units import duration_text, gib

if TYPE_CHECKING:
    from rich.table import Table

UNKNOWN = "unknown"
WIDTH_OF_FILES = 200
"""Columns where the output is no terminal: enough for a row without a break."""


def print_plan(plan: Plan, stream: TextIO | None = None) -> None:
    """Print a plan: summary, table, totals, assumptions."""
    from rich.text import Text

    from harness.console import Console

    stream = stream or sys.stdout
    console = Console(file=stream, width=None if stream.isatty() else WIDTH_OF_FILES)
    console.print(Text(plan.title, style="bold"))
    console.print(Text(plan.summary))
    console.print(plan_table(plan))
    for line in footer(plan):
        console.print(Text(line), soft_wrap=True)


def plan_table(plan: Plan) -> Table:
    """One row per run in the order of running, a rule between blocks."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    leveled = any(block.levels for block in plan.blocks)
    for name in ("size", "seed", "protocol", *(["levels"] if leveled else []), "arm"):
        table.add_column(name, no_wrap=True)
    for name in ("FLOPs", "time", "energy", "memory", "rental"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    beyond = set(plan.beyond_budget)
    for block in plan.blocks:
        late = block.block_id in beyond
        said: set[str] = set()
        for index, run in enumerate(block.runs):
            first = index == 0
            head = [block.size, str(block.seed), block.protocol.value]
            if leveled:
                head.append(levels_text(block.levels))
            if not first:
                head = [""] * len(head)
            remark = _remark(run, block, said, late=late and first)
            style = "dim" if run.skip is not None else None
            cells = (*head, run.spec.arm, *_numbers(run), remark)
            table.add_row(*(Text(cell) for cell in cells), style=style, end_section=index == len(block.runs) - 1)
    return table


def _numbers(run: PlannedRun) -> tuple[str, str, str, str, str]:
    expected = run.prediction
    flops = UNKNOWN if expected.flops is None else f"{expected.flops:.2e}"
    if run.spec.protocol is Protocol.COUNT:  # nothing is trained: no energy, memory or rental to expect
        return flops, _time(expected.seconds), "", "", ""
    return (
        flops,
        _time(expected.seconds),
        energy_text(expected.energy_j),
        UNKNOWN if expected.memory_bytes is None else gib(expected.memory_bytes),
        money_text(expected.price_usd),
    )


def _remark(run: PlannedRun, block: Block, said: set[str], *, late: bool) -> str:
    """What is to say of a run; a reason once per block."""
    if run.skip is not None:
        reason = "likewise" if run.skip in said else run.skip
        said.add(run.skip)
        return f"skipped: {reason}"
    notes = ["baseline"] if run.spec.arm == block.baseline else []
    if late:
        notes.append("ends after the budget")
    return ", ".join(notes)


def footer(plan: Plan) -> list[str]:
    """Totals with their basis, the budget, and what was assumed."""
    totals = plan.totals
    flops = UNKNOWN if totals.flops is None else f"{totals.flops:.2e}"
    projected = (_time(totals.seconds), energy_text(totals.energy_j), f"rental {money_text(totals.price_usd)}")
    lines = [f"total: {flops} FLOPs (counted, closed form), {', '.join(projected)} (projected)"]
    if totals.skipped:
        lines.append(f"skipped: {totals.skipped} runs, with the reason beside each")
    if plan.budget_s is not None:
        fitting = len(plan.blocks) - len(plan.beyond_budget)
        lines.append(f"budget: {duration_text(plan.budget_s)}, about {fitting} of {len(plan.blocks)} blocks fit")
    return lines + list(plan.notes)


def _time(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else duration_text(seconds)


def energy_text(energy_j: float | None) -> str:
    """``950 J``, ``12.3 kJ``, ``4.5 kWh``."""
    if energy_j is None:
        return UNKNOWN
    if energy_j < 1e3:
        return f"{energy_j:.3g} J"
    return f"{energy_j / 1e3:.3g} kJ" if energy_j < 3.6e6 else f"{energy_j / 3.6e6:,.3g} kWh"


def money_text(usd: float | None) -> str:
    """``0.0012 USD``, ``3.40 USD``."""
    if usd is None:
        return UNKNOWN
    return f"{usd:.2g} USD" if usd < 0.1 else f"{usd:,.2f} USD"
