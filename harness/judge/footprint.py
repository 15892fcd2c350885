"""Joules to kWh, to kg CO2e, to money; every factor with value, unit, year, source and kind.

Rental follows wall-clock time, electricity follows joules. CO2e is energy times one factor, so its saving
is the energy's and is not a second finding. Power usage effectiveness (PUE) is a factor of its own: it
multiplies CO2e and the electricity bill, never the measured energy.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml

from harness.judge.compare import Wasted, weakest
from harness.judge.grid import intensity, regions
from harness.judge.types import Figure, Footprint, FootprintRow
from harness.judge.words import count
from harness.record.record import Record
from harness.registry import did_you_mean
from harness.suite.spec import FootprintOptions, Protocol, levels_text
from harness.types import Basis, Frozen, UserError

__all__ = [
    "Price",
    "electricity_price",
    "footprint",
    "list_prices",
    "list_regions",
    "prices",
    "regions",
    "rental_price",
]

JOULES_PER_KWH = 3.6e6


class Price(Frozen):
    """One entry of the price table."""

    key: str
    what: str  # "rental" or "electricity"
    match: tuple[str, ...] = ()  # rental: parts of the device's name
    regions: tuple[str, ...] = ()  # electricity: countries it is true of
    per: str  # "card", "vCPU" (an hour of one) or "kWh"
    value: float
    low: float
    high: float
    currency: str
    year: int
    kind: str
    source: str

    def figure(self, name: str) -> Figure:
        """As a factor for the page."""
        unit = f"{self.currency}/kWh" if self.what == "electricity" else f"{self.currency} per {self.per} and hour"
        return Figure(
            name=name, value=self.value, unit=unit, basis=Basis.MODELLED, source=self.source, year=self.year,
            kind=self.kind, low=self.low, high=self.high,
        )  # fmt: skip


@functools.cache
def _table() -> Any:
    return yaml.safe_load((files("harness.judge.data") / "prices.yaml").read_text(encoding="utf-8"))


@functools.cache
def prices() -> dict[str, Price]:
    """Rental prices by key."""
    return {key: Price(key=key, what="rental", **row) for key, row in _table()["rental"].items()}


@functools.cache
def _electricity() -> dict[str, Price]:
    return {key: Price(key=key, what="electricity", per="kWh", **row) for key, row in _table()["electricity"].items()}


def list_regions() -> list[dict[str, Any]]:
    """Rows for ``harness ls regions``."""
    return [
        {
            "region": key,
            "name": f.name,
            "g_co2e_per_kwh": round(f.value, 1),
            "year": f.year,
            "kind": f.kind,
            "source": f.source,
        }
        for key, f in regions().items()
    ]


def list_prices() -> list[dict[str, Any]]:
    """Rows for ``harness ls prices``."""
    return [
        {
            "price": price.key, "what": price.what, "value": price.value, "low": price.low, "high": price.high,
            "unit": price.figure(price.key).unit, "year": price.year, "kind": price.kind, "source": price.source,
        }
        for price in (*prices().values(), *_electricity().values())
    ]  # fmt: skip


def rental_price(key: str | None, device: str) -> Price | None:
    """The price called ``key``, or the one whose name is part of the device's (``cpu`` for a processor).

    Returns:
        ``None`` where no key is given and the table has nothing for the device.

    Raises:
        UserError: no such key.
    """
    if key is not None:
        if key not in prices():
            raise UserError(f"unknown price {key!r}{did_you_mean(key, list(prices()))}; known: {', '.join(prices())}")
        return prices()[key]
    fits = [p for p in prices().values() if any(part.lower() in device.lower() for part in p.match)]
    return fits[0] if fits else None


def electricity_price(region: str) -> tuple[Price, bool]:
    """Price of a kWh in a region, and whether it is a stand-in from elsewhere."""
    zone = re.fullmatch(r"(SE|NO|FI)\d?", region)  # bidding zones; other keys start with the country's code
    country = {"SE": "SWE", "NO": "NOR", "FI": "FIN"}[zone[1]] if zone else region[:3]
    for price in _electricity().values():
        if country in price.regions:
            return price, False
    return _electricity()[_table()["stand_in"]], True


def footprint(good: Mapping[str, Record], options: FootprintOptions, lost: Wasted) -> Footprint | None:
    """Footprint of one whole training per arm and size, the mean over its seeds; ``None`` without energies.

    Args:
        good: OK records by run id.
        options: region, PUE and price of the suite.
        lost: what failed attempts took, for a note.

    Raises:
        UserError: unknown region or price.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in good.values():
        if record.spec.protocol is Protocol.TRAIN and record.energy is not None and record.energy.joules is not None:
            place = ", ".join(filter(None, [record.spec.size, levels_text(record.spec.levels)]))
            groups.setdefault((place, record.spec.arm), []).append(record)
    if not groups:
        return None
    grid = intensity(options.region)
    power, stand_in = electricity_price(options.region)
    first = next(iter(groups.values()))[0]
    device = str(first.fingerprint.get("gpu", "")) if first.spec.device == "cuda" else "cpu"
    rental = rental_price(options.price, device)
    pue = Figure(
        name="power usage effectiveness (PUE)", value=options.pue, unit="kWh per kWh", basis=Basis.MODELLED,
        source=options.pue_source, kind="multiplies CO2e and electricity, never the measured energy",
    )  # fmt: skip
    factors = [grid.model_copy(update={"name": f"grid intensity, {grid.name}"}), pue]
    notes = ["The saving in CO2e is the saving in energy: one factor multiplies both arms. It is no second finding."]
    if rental is None:
        notes.append(f"No rental price ships for {device or 'this device'}: name one (`python -m harness ls prices`).")
    else:
        factors.append(rental.figure(f"rental of {rental.key}"))
    label = f"electricity, {power.key}"
    if stand_in:
        label += f", standing in for {options.region}"
        notes.append(f"No electricity price ships for {options.region}: the one of {power.key} stands in for it.")
    factors.append(power.figure(label))
    rows = [
        _row(size, arm, records, grid=grid, pue=options.pue, rental=rental, power=power)
        for (size, arm), records in groups.items()
    ]
    if lost.attempts:
        unknown = f", of {lost.unknown} of them the energy is not known" if lost.unknown else ""
        notes.append(
            f"{count(lost.attempts, 'attempt')} that gave no result took {lost.joules:.4g} J more "
            f"({lost.basis.value}){unknown}; that is in no row above."
        )
    return Footprint(factors=tuple(factors), rows=tuple(rows), notes=tuple(notes))


def _row(
    size: str, arm: str, records: Sequence[Record], *, grid: Figure, pue: float, rental: Price | None, power: Price
) -> FootprintRow:
    energies = [r.energy for r in records if r.energy is not None]
    kwh = [e.joules / JOULES_PER_KWH for e in energies if e.joules is not None]
    basis = weakest(e.basis for e in energies)
    derived = Basis.SIMULATED if basis is Basis.SIMULATED else Basis.MODELLED
    source = "; ".join(dict.fromkeys(e.source for e in energies))
    mean = math.fsum(kwh) / len(kwh)
    several = len(kwh) > 1
    energy = Figure(
        name="energy", value=mean, unit="kWh", basis=basis, source=source,
        kind=f"mean of {count(len(kwh), 'training')}",
        low=min(kwh) if several else None, high=max(kwh) if several else None,
    )  # fmt: skip
    carbon = Figure(
        name="CO2e", value=mean * pue * grid.value / 1000, unit="kg", basis=derived, source=grid.source, year=grid.year,
        kind=grid.kind,
    )  # fmt: skip
    bill = _money("electricity", mean * pue, power, derived)
    hours = [r.seconds / 3600 * _units(r, rental) for r in records if r.seconds is not None and rental is not None]
    rented = _money("rental", math.fsum(hours) / len(hours), rental, derived) if hours and rental is not None else None
    return FootprintRow(arm=arm, size=size, energy=energy, carbon=carbon, rental=rented, electricity=bill)


def _units(record: Record, rental: Price | None) -> float:
    """How many of what is rented: the cores of the machine, or one card."""
    if rental is None or rental.per != "vCPU":
        return 1.0
    return float(record.fingerprint.get("cores") or 1)


def _money(name: str, amount: float, price: Price, basis: Basis) -> Figure:
    return Figure(
        name=name, value=amount * price.value, unit=price.currency, basis=basis, source=price.source, year=price.year,
        kind=price.kind, low=amount * price.low, high=amount * price.high,
    )  # fmt: skip
