"""Which meter to use, and why: the sentence goes to the terminal and into the record."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from harness.meter.base import METERS
from harness.types import Basis, UserError

AUTO = "auto"
_NOT_MEASURED = {
    Basis.MODELLED: "its energies are modelled, not measured",
    Basis.SIMULATED: "its energies are simulated: nothing is measured, whatever runs",
}


class Choice(NamedTuple):
    """A meter's name, its constructor's options, and why it was chosen."""

    name: str
    options: dict[str, Any]
    explanation: str


def choose(request: str, device: Literal["cpu", "cuda"] | str) -> Choice:
    """The meter for a device.

    ``request`` is ``auto``, a meter's name, or ``NAME:ARGUMENT``. ``auto`` takes NVML for a card and never
    less: a CPU figure would not be the energy of a training on a card. On the CPU it takes RAPL, and the
    model where there is no RAPL.

    Raises:
        UserError: an unknown meter, one that does not cover the device, or one this machine lacks; the text
            says how to get it.
    """
    if request == AUTO:
        return _auto(device)
    name, _, argument = request.partition(":")
    meter = METERS.get(name)
    if device not in meter.covers:
        other = next(n for n, kind in METERS.items() if device in kind.covers and not kind.argument)
        raise UserError(f"meter {name!r} does not cover a training on {device!r}; use auto or {other!r}")
    options = meter.options_of(argument)
    lacking = meter.available()
    if lacking:
        raise UserError(f"meter {name!r} was asked for but can't be used: {lacking}")
    caution = _NOT_MEASURED.get(meter.basis, "")
    return Choice(name, options, f"{request} was asked for" + (f"; {caution}" if caution else ""))


def _auto(device: str) -> Choice:
    if device == "cuda":
        lacking = METERS.get("nvml").available()
        if lacking:
            raise UserError(f"no meter for the card: {lacking}")
        return Choice("nvml", {}, "NVML measures the card by its own counter and sensor")
    lacking = METERS.get("rapl").available()
    if lacking is None:
        return Choice("rapl", {}, "RAPL measures CPU packages and memory")
    unmodelled = METERS.get("modelled").available()
    if unmodelled:
        raise UserError(f"no meter for the CPU: rapl: {lacking}; modelled: {unmodelled}")
    return Choice(
        "modelled",
        {},
        "CPU energy is modelled (CPU seconds x watts per core), not measured, because RAPL can't be used here: "
        f"{lacking}",
    )
