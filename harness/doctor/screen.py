"""The examination on one screen: colours on a terminal, plain text elsewhere."""

from __future__ import annotations

import shutil
from io import StringIO

from rich.table import Table
from rich.text import Text

from harness.console import Console
from harness.doctor.advice import short
from harness.doctor.types import CardFacts, Examination, MeterFacts
from harness.meter.budget import GAIN, MODEL
from harness.types import Basis

BASIS_STYLE = {Basis.MEASURED: "green", Basis.MODELLED: "yellow", Basis.SIMULATED: "magenta"}
CANCELS = frozenset({GAIN, MODEL})
"""Parts of the uncertainty that are alike in both arms on one device."""
GOOD, BAD = "✓", "✗"


def screen(found: Examination, *, width: int | None = None, colour: bool = False) -> str:
    """For a person, in about 80 columns."""
    columns = width or min(shutil.get_terminal_size((80, 24)).columns, 110)
    console = Console(file=StringIO(), width=columns, force_terminal=colour)
    table = Table.grid(padding=(0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if found.simulated:
        table.add_row("SIMULATED", Text("what it would look like: cards and joules are made up", "bold magenta"))
    table.add_row("machine", _machine(found))
    for card in found.cards:
        table.add_row(f"card {card.index}", _card(card))
    table.add_row("torch", _torch(found))
    used = found.auto["meter"]
    shown = [one for name, one in found.meters.items() if name == used or not one.argument]
    if found.simulated:
        shown = [one for one in shown if one.name == used]
    for meter in sorted(shown, key=lambda one: (one.name != used, not one.available)):
        table.add_row(meter.name, _meter(meter, chosen=meter.name == used))
    table.add_row("also", _others(found, {one.name for one in shown}))
    table.add_row("verdicts", Text(found.verdict, _verdict_style(found)))
    if used is None:
        table.add_row("no meter", Text(str(found.auto["why"]), "red"))
    if found.advice and not found.simulated:
        table.add_row("more", _advice(found))
    console.print(table)
    stream = console.file
    assert isinstance(stream, StringIO)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _verdict_style(found: Examination) -> str:
    used = found.meters.get(found.auto["meter"] or "")
    return BASIS_STYLE[used.basis] if used is not None and not used.problem else "bold red"


def _machine(found: Examination) -> str:
    around = found.surroundings
    kind = "virtual machine" if around.virtual else "bare metal" if around.virtual is False else ""
    where = [kind, f"container ({around.container})" if around.container else ""]
    parts = [found.machine["description"], *filter(None, where), f"clock {around.clock}", f"code {found.revision}"]
    return ", ".join(parts)


def _card(card: CardFacts) -> str:
    limit = f"limit {card.power_limit_w:g} W" if card.power_limit_w is not None else "limit not readable"
    others = "processes not readable" if card.compute_processes is None else f"{card.compute_processes} processes"
    scope = "" if card.scope == "gpu" else f", reads the {card.scope}"
    return f"{card.name} {short(card.uuid)}, driver {card.driver}, {limit}, {others}{scope}"


def _torch(found: Examination) -> Text:
    torch = found.torch
    if torch.usable is None:
        return Text(f"{torch.version or 'not installed'}; {torch.says}")
    mark, style = (GOOD, "green") if torch.usable else (BAD, "red")
    return Text.assemble((f"{mark} ", style), f"{torch.version}, CUDA {torch.cuda_build or 'none'}: {torch.says}")


def _meter(meter: MeterFacts, *, chosen: bool) -> Text:
    if not meter.available or meter.problem:
        return Text.assemble((f"{BAD} ", "red"), meter.problem or meter.remedy)
    style = BASIS_STYLE[meter.basis]
    words = Text.assemble((f"{GOOD} {meter.basis.value}", style), " (used)" if chosen else "")
    if meter.source:
        words.append(f": {meter.source}")
    if meter.uncertainty_60s is not None and meter.typical_power_w is not None:
        words.append(
            f"\na minute at {meter.typical_power_w:.0f} W: ±{100 * meter.uncertainty_60s:.1f} % (95 %), "
            f"mostly {meter.dominating}{', which cancels in a pair' if meter.dominating in CANCELS else ''}"
        )
    if meter.update_period_s is not None:
        seen = "observed" if meter.period_is_observed else "assumed"
        words.append(f"; refresh {meter.update_period_s * 1e3:.3g} ms {seen}{_channels(meter)}")
    if meter.sampler_core_share is not None:
        words.append(f"; sampling takes {100 * meter.sampler_core_share:.2g} % of a core")
    if meter.power_now_w is not None:
        words.append(f"; now {meter.power_now_w:.0f} W")
    return words


def _channels(meter: MeterFacts) -> str:
    quanta = {(c.quantum, c.unit) for c in meter.channels if c.quantum is not None}
    if not quanta:
        return ""
    return ", steps of " + " and ".join(f"{quantum:.3g} {unit}" for quantum, unit in sorted(quanta, key=str))


def _others(found: Examination, shown: set[str]) -> str:
    meters = [
        f"--meter {one.name}:{one.argument} ({one.basis.value})"
        for one in found.meters.values()
        if one.argument and one.name not in shown
    ]
    tools = [f"{name} {'missing' if lacking else 'installed'}" for name, lacking in found.opinions.items()]
    return ", ".join(meters) + f"; second opinions: {', '.join(tools)}"


def _advice(found: Examination) -> Text:
    words = Text()
    for number, one in enumerate(found.advice, start=1):
        words.append("\n" if number > 1 else "")
        words.append(f"{number}. ", "bold")
        words.append(one.what)
        words.append(f" → {one.gain}", "dim")
    return words
