"""Asking everything once, and putting the answers together."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.doctor import torch_probe
from harness.doctor.advice import advice, at_most
from harness.doctor.cards import cards_of, real_cards
from harness.doctor.meters import examine_meter
from harness.doctor.surroundings import surroundings
from harness.doctor.types import CardFacts, Examination, MeterFacts, TorchFacts
from harness.meter.base import METERS
from harness.record import fingerprint
from harness.suite.machine import Machine, detect
from harness.types import UserError

SIMULATED = "simulated"


def examine(request: str, choose: Callable[[str, str], Any]) -> Examination:
    """This machine and its meters. ``request`` is a ``--meter``: ``auto`` or the one that is asked about.

    ``choose`` gives name, options and reason of a meter, or raises UserError.

    Raises:
        UserError: a meter that does not exist, or whose argument names nothing.
    """
    machine = detect("auto")
    facts = fingerprint.machine()
    name = request.partition(":")[0]
    if name == SIMULATED:
        cards: tuple[CardFacts, ...] = _simulated_cards(METERS.get(name).options_of(request.partition(":")[2]))
        probe = None
    else:
        cards = real_cards()
        probe = torch_probe.start() if cards else None
    try:
        auto, options = _choice(request, machine, choose)
        meters = _meters(auto["meter"], options, cards, machine)
    except BaseException:
        if probe is not None:
            probe.kill()
            probe.communicate()
        raise
    around = surroundings(facts["virtual"])
    torch = _torch(probe, simulated=name == SIMULATED)
    opinions = _opinions()
    used = meters.get(auto["meter"] or "")
    return Examination(
        simulated=name == SIMULATED,
        machine=machine.model_dump(mode="json") | {"description": machine.description, "os": facts["os"]},
        revision=fingerprint.code_revision(),
        packages=fingerprint.packages(),
        surroundings=around,
        cards=cards,
        torch=torch,
        meters=meters,
        auto=auto,
        verdict=at_most(used.basis if used is not None and not used.problem else None),
        opinions=opinions,
        advice=advice(machine.device, used, meters, cards, torch, around, opinions),
    )


def _choice(
    request: str, machine: Machine, choose: Callable[[str, str], Any]
) -> tuple[dict[str, str | None], dict[str, Any] | None]:
    try:
        chosen = choose(request, machine.device)
    except UserError as error:
        if request != "auto" and request.partition(":")[0] not in METERS.names():
            raise
        return {"meter": None, "why": str(error)}, None  # the very thing that this verb is asked about
    return {"meter": chosen.name, "why": chosen.why}, chosen.options


def _meters(
    used: str | None, options: dict[str, Any] | None, cards: tuple[CardFacts, ...], machine: Machine
) -> dict[str, MeterFacts]:
    """Each meter; those that need no argument are tried, and the one that is asked about."""
    found = {}
    for name, kind in METERS.items():
        own = options if name == used else None if kind.argument else {}
        if used == SIMULATED and name != used:
            own = None  # what is really there plays no part in a simulation
        found[name] = examine_meter(name, own, cards, machine.cores)
    return found


def _simulated_cards(options: dict[str, Any]) -> tuple[CardFacts, ...]:
    from harness.meter.simulated.nvml import SimulatedNvml
    from harness.meter.simulated.scenario import load_scenario

    return cards_of(SimulatedNvml(load_scenario(Path(options["scenario"]))))


def _torch(probe: subprocess.Popen[str] | None, *, simulated: bool) -> TorchFacts:
    if probe is not None:
        return torch_probe.finish(probe)
    known = torch_probe.without_card()
    return known.model_copy(update={"says": "a simulated card runs nothing"}) if simulated else known


def _opinions() -> dict[str, str | None]:
    from harness.meter.opinions.base import OPINIONS

    return {name: kind.available() for name, kind in OPINIONS.items()}
