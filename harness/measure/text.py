"""The report on one screen, for people: in colour on a terminal, plain anywhere else."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Iterable, Sequence
from typing import TextIO

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from harness.console import Console
from harness.judge.types import Estimate
from harness.measure.document import is_sound
from harness.measure.types import Document, Figure, Opined, PairRow, Plan, RunFigures, Saving
from harness.meter.base import COVERAGE_FACTOR
from harness.report.formats import percent, quantity, shown
from harness.types import Basis

_STYLES = {Basis.MEASURED: "green", Basis.MODELLED: "yellow", Basis.SIMULATED: "magenta"}
_LABEL_WIDTH = 13

Row = tuple[str, str | Text]


def console_for(stream: TextIO) -> Console:
    """Rich's, as wide as the terminal or 100 columns; without colour where there is no terminal.

    Under 72 columns the terminal itself breaks the lines: a column of single letters is worse.
    """
    width = shutil.get_terminal_size((100, 24)).columns
    return Console(file=stream, width=min(120, max(72, width)))


def show(document: Document, stream: TextIO) -> None:
    """Print the report."""
    parts = _once(document) if document.plan.kind == "once" else _pairs(document)
    console = console_for(stream)
    if console.is_terminal:
        console.print(Group(*parts))
        return
    with console.capture() as captured:
        console.print(Group(*parts))
    stream.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))  # no padding in a log
    stream.flush()


def command_text(plan: Plan, arm: str, width: int = 200) -> str:
    """A command as one would type it."""
    argv = plan.argv[arm]
    text = argv[-1] if plan.shell else shlex.join(argv)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def _once(document: Document) -> Iterable[RenderableType]:
    plan = document.plan
    yield Rule(Text(plan.label or "measure", style="bold"), align="left", style="dim")
    yield Text(command_text(plan, "a"), style="bold")
    for made in document.runs:
        yield _how_it_ended(made)
        for figure in made.figures:
            yield _figure(figure, [opined for opined in made.opinions if opined.meter == figure.meter])
    yield from _foot(document)


def _how_it_ended(made: RunFigures) -> Text:
    run = made.run
    if run.error:
        return Text(f"was not run: {run.error} (exit code {run.exit_code})", style="red")
    how = f"killed by signal {run.signal}, exit code {run.exit_code}" if run.signal else f"exit code {run.exit_code}"
    spent = f"{quantity(made.seconds, 's', 4)} from exec to exit, {quantity(run.cpu_s, 's')} of CPU time"
    memory = f", {quantity(run.peak_memory_bytes, 'bytes')} at most in one process" if run.peak_memory_bytes else ""
    return Text(how, style="green" if run.ok else "red") + Text(f", {spent}{memory}", style="default")


def _figure(figure: Figure, opinions: Sequence[Opined]) -> RenderableType:
    energy = figure.energy
    rows: list[Row] = []
    if energy.joules is None:
        rows.append(("energy", Text(f"not known: {energy.reason}", style="bold red")))
    else:
        half = quantity(figure.uncertainty_95_j, "J")
        line = Text(f"{quantity(energy.joules, 'J', 4)} ± {half} (95 %)", style="bold")
        rows.append(("energy", line + Text(f"  {quantity(figure.kwh, 'kWh')}  ") + _mark(energy.basis)))
        rows.append(("mean power", f"{quantity(figure.mean_power_w, 'W')} over {quantity(energy.seconds, 's', 4)}"))
        if figure.net is not None:
            net = figure.net
            rows.append(
                (
                    "net of idle",
                    f"{quantity(net.joules, 'J', 4)} ± {quantity(COVERAGE_FACTOR * net.uncertainty_j, 'J')} (95 %), "
                    f"at rest {quantity(net.idle_power_w, 'W')}, {energy.basis.value}",
                )
            )
        else:
            rows.append(("net of idle", Text(figure.no_net, style="dim")))
        rows.append(("uncertainty", _budget(figure)))
        if energy.second_joules is not None:
            off = "" if energy.disagreement is None else f", {_signed(energy.disagreement)} against the first"
            rows.append(("2nd channel", f"{quantity(energy.second_joules, 'J', 4)}{off}"))
    rate = f", {figure.sample_hz:g} samples a second" if figure.sample_hz else ""
    cost = f" at {percent(figure.sampling_cpu_share, 2)} of a core" if figure.sampling_cpu_share is not None else ""
    rows.append(("observed", f"{percent(energy.coverage)} of the window{rate}{cost}"))
    rows += [
        (f"also: {other.scope}", f"{quantity(other.joules, 'J', 4)}, {other.basis.value}, never added")
        for other in figure.other_scopes
    ]
    rows.append(("source", energy.source))
    rows += [_opinion(opined) for opined in opinions]
    if energy.joules is not None and energy.reason:
        rows.append(("assumed", energy.reason))
    rows += [("INVALID", Text(why, style="bold red")) for why in figure.invalid if why != energy.reason]
    rows += [("caution", Text(why, style="yellow")) for why in figure.cautions]
    title = Text(f"{energy.scope}", style="bold") + Text(f"  by {figure.meter}", style="dim")
    return Padding(Group(title, _grid(rows)), (1, 0, 0, 0))


def _budget(figure: Figure) -> str:
    parts = sorted(figure.energy.parts.items(), key=lambda part: -part[1])
    told = [f"{name} {quantity(value, 'J', 2)}" for name, value in parts if value > 0]
    return f"{', '.join(told)} (one standard deviation each)" if told else "none stated"


def _opinion(opined: Opined) -> Row:
    row = opined.row
    told = f"{row.covers}: {quantity(row.joules, 'J', 4)}, {row.basis.value}" if row.joules is not None else "no figure"
    off = f", {_signed(row.difference)} against ours" if row.difference is not None else ""
    why = f" ({row.reason})" if row.reason else ""
    return row.tool, f"{told}{off}{why}"


def _pairs(document: Document) -> Iterable[RenderableType]:
    plan = document.plan
    yield Rule(Text(plan.label or "measure: A against B", style="bold"), align="left", style="dim")
    yield _grid(
        [
            ("A", Text(command_text(plan, "a"), style="bold")),
            ("B", Text(command_text(plan, "b"), style="bold")),
            ("pairs", f"{document.done_pairs} of {plan.pairs} done. {plan.why_pairs}"),
            ("order", f"{_order(plan)}; who began was drawn by seed {plan.seed}"),
        ],
        indent=0,
    )
    for saving in document.savings:
        yield Padding(Group(*_saving(saving)), (1, 0, 0, 0))
    if document.opinion_savings:
        rows = [
            (o.tool, f"{o.covers}: B saves {_estimate(o.energy)}, {o.used} pairs") for o in document.opinion_savings
        ]
        yield Padding(Group(Text("second opinions", style="bold"), _grid(rows)), (1, 0, 0, 0))
    if document.wasted_j:
        spent = ", ".join(f"{quantity(joules, 'J')} by {meter}" for meter, joules in document.wasted_j.items())
        yield Padding(Text(f"beside the pairs (warm-ups, pairs that were cut): {spent}", style="dim"), (1, 0, 0, 0))
    yield from (Text(note, style="yellow") for note in document.notes)
    yield from _foot(document)


def _saving(saving: Saving) -> Iterable[RenderableType]:
    mark = _mark(saving.basis)
    yield Text(saving.scope, style="bold") + Text(f"  by {saving.meter}  ", style="dim") + mark
    if saving.energy is None:
        rows: list[Row] = [("energy", Text("no pair counts, so there is no saving to tell", style="bold red"))]
    else:
        of_a = " of A's energy"
        more = "" if saving.energy.value >= 0 else " (B takes more)"
        word = Text(f", {saving.basis.value}", style=_STYLES.get(saving.basis, ""))
        rows = [
            ("energy", Text(f"B saves {_estimate(saving.energy, of_a)}{more}", style="bold") + word),
            ("  time part", f"{_estimate(saving.time)}, measured"),
            ("  power part", Text(_estimate(saving.power)) + word),
            (
                "mean of a run",
                Text(f"A {quantity(saving.mean_joules_a, 'J', 4)}, B {quantity(saving.mean_joules_b, 'J', 4)}") + word,
            ),
        ]
        if saving.net is not None:
            rows.insert(3, ("net of idle", Text(f"B saves {_estimate(saving.net)}") + word))
        if saving.order_effect is not None:
            rows.append(("order", Text(f"the second of a pair reads {_ratio(saving.order_effect)}", style="dim")))
    rows.append(("source", saving.source))
    rows += [("caution", Text(why, style="yellow")) for why in saving.cautions]
    yield _grid(rows)
    yield Padding(_pair_table(saving.pairs, saving.basis), (0, 0, 0, 2))
    yield _grid(
        (f"pair {row.pair}", Text(f"left out: {row.left_out}", "yellow")) for row in saving.pairs if row.left_out
    )


def _pair_table(rows: Sequence[PairRow], basis: Basis) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("pair", "order", f"A, {basis.value}", f"B, {basis.value}", "A, time", "B, time", "B saves"):
        table.add_column(name, justify="left" if name == "order" else "right", no_wrap=True)
    for row in rows:
        saves = "" if row.log_energy_ratio is None else percent(-math.expm1(row.log_energy_ratio))
        table.add_row(
            str(row.pair),
            "AB" if row.first == "a" else "BA",
            "not known" if row.joules_a is None else quantity(row.joules_a, "J", 4),
            "not known" if row.joules_b is None else quantity(row.joules_b, "J", 4),
            quantity(row.seconds_a or None, "s"),
            quantity(row.seconds_b or None, "s"),
            saves,
        )
    return table


def _foot(document: Document) -> Iterable[RenderableType]:
    if document.kept:
        again = f"python -m harness measure --replay {shlex.quote(document.kept)}"
        yield Text(f"raw samples and report: {document.kept}; {again} derives all of it again", style="dim")
    if not is_sound(document):
        yield Text("not every figure can be trusted: see above (--strict makes that exit code 4)", style="bold red")


def _grid(rows: Iterable[Row], indent: int = 2) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=_LABEL_WIDTH, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, content in rows:
        table.add_row(label, content)
    return Padding(table, (0, 0, 0, indent))


def _mark(basis: Basis) -> Text:
    return Text(basis.value.upper(), style=f"bold {_STYLES.get(basis, '')}".strip())


def _estimate(estimate: Estimate | None, of: str = "") -> str:
    if estimate is None:
        return "not known"
    told = shown(estimate)
    return f"{told.value}{of} {told.interval}{f', {told.n}' if told.n else ''}"


def _ratio(estimate: Estimate) -> str:
    ends = [math.expm1(value) for value in (estimate.value, estimate.low, estimate.high) if value is not None]
    interval = f" [{_signed(ends[1])}, {_signed(ends[2])}]" if len(ends) == 3 else ""
    return f"{_signed(ends[0])}{interval} against the first, whichever it is"


def _signed(share: float) -> str:
    return f"{'+' if share >= 0 else ''}{percent(share, 2)}"


def _order(plan: Plan) -> str:
    words = ["AB" if first == "a" else "BA" for first in plan.first]
    return " ".join(words[:6]) + (" ..." if len(words) > 6 else "")
