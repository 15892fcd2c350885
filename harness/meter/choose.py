"""Which meter to use, and why: the sentence goes to the terminal and into the record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

from harness.meter.base import METERS
from harness.types import UserError

AUTO = "auto"
_COVERS = {"nvml": "cuda", "rapl": "cpu", "modelled": "cpu"}


class Choice(NamedTuple):
    """A meter's name, its constructor's options, and why it was chosen."""

    name: str
    options: dict[str, Any]
    explanation: str


def choose(request: str, device: Literal["cpu", "cuda"] | str) -> Choice:
    """The meter for a device.

    ``request`` is ``auto``, a meter's name, or ``replay:FILE``. ``auto`` takes NVML for a card and never
    less: a CPU figure would not be the energy of a training on a card. On the CPU it takes RAPL, and the
    model where there is no RAPL.

    Raises:
        UserError: an unknown meter, one that does not cover the device, or one this machine lacks; the text
            says how to get it.
    """
    if request == AUTO:
        return _auto(device)
    name, _, argument = request.partition(":")
    if name == "replay":
        return _replay(argument)
    if argument:
        raise UserError(f"meter {name!r} takes no argument: {request!r}; only replay:FILE does")
    meter = METERS.get(name)
    covers = _COVERS.get(name)
    if covers is not None and covers != device:
        raise UserError(f"meter {name!r} does not cover a training on {device!r}; use auto or {_for(device)!r}")
    lacking = meter.available()
    if lacking:
        raise UserError(f"meter {name!r} was asked for but can't be used: {lacking}")
    return Choice(name, {}, f"{name} was asked for")


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


def _replay(argument: str) -> Choice:
    if not argument:
        raise UserError("meter 'replay' needs a file: replay:FILE")
    path = Path(argument)
    if not path.is_file():
        raise UserError(f"meter 'replay': there is no file {argument!r}")
    return Choice("replay", {"file": str(path.absolute())}, f"simulated: {path.name} is played, nothing is measured")


def _for(device: str) -> str:
    return next(name for name, covers in _COVERS.items() if covers == device)
