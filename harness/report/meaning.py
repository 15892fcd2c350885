"""What the saving would mean for published figures: arithmetic on other people's numbers, never a measurement."""

from __future__ import annotations

from dataclasses import dataclass

from harness.judge.types import Estimate
from harness.report import formats
from harness.report.view import View

CLAIMED_LOW, CLAIMED_HIGH = 0.62, 0.75  # the article's range


@dataclass(frozen=True, slots=True)
class Published:
    """A figure somebody else published."""

    what: str
    value: float
    unit: str
    source: str
    year: int
    follows: str  # "energy" or "time": which saving it would fall by
    derived: str = ""  # how it was derived, where it was


PUBLISHED = (
    Published("training GPT-4, more than", 100e6, "USD", "S. Altman at MIT, reported by Wired", 2023, "time"),
    Published("pre-training Llama 3.1 405B", 30.84e6, "H100 hours", "Meta, Llama 3.1 model card", 2024, "time"),
    Published(
        "pre-training Llama 3.1 405B", 30.84e6 * 0.7, "kWh", "Meta, Llama 3.1 model card", 2024, "energy",
        "GPU hours × 700 W board power, as the card itself reckons; no cooling, no servers",
    ),
    Published(
        "electricity of data centres in 2026, could exceed", 1e12, "kWh", "IEA, Electricity 2024", 2024, "energy",
        "a year, projected by the source; with cryptocurrencies; training is a part that the source does not state",
    ),
    Published(
        "one large training, about", 5.0, "transatlantic flights", "the article, which names no source", 2026, "energy"
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Projection:
    """A published figure, what the article's range would leave of it, and what the saving found here would."""

    published: Published
    as_published: str
    claimed: str
    found: str


def projections(view: View) -> list[Projection]:
    """For the comparison that the key numbers come from; empty where no saving was found, or only a made-up one."""
    comparison = view.headline
    if comparison is None or view.simulated:
        return []
    rows = []
    for fact in PUBLISHED:
        saving = comparison.saving if fact.follows == "energy" else comparison.time_saving
        claimed = _told(fact, None, 1 - CLAIMED_HIGH, 1 - CLAIMED_LOW)
        rows.append(Projection(fact, _told(fact, 1.0), claimed, _found(fact, saving)))
    return rows


def _found(fact: Published, saving: Estimate | None) -> str:
    if saving is None:
        return formats.MISSING
    if saving.low is None or saving.high is None:
        return _told(fact, 1 - saving.value) + (" (n=1, no interval)" if saving.n == 1 else "")
    return _told(fact, 1 - saving.value, 1 - saving.high, 1 - saving.low)


def _told(fact: Published, share: float | None, low: float | None = None, high: float | None = None) -> str:
    """A share of the published figure, its range, or both, with the unit written once."""
    factor, unit = formats.scale_for(fact.value, fact.unit)  # other units are told as they come
    if fact.unit != "kWh" and fact.value >= 1e6:
        factor, unit = 1e6, f"million {fact.unit}"

    def tell(part: float) -> str:
        return formats.significant(fact.value * part / factor)

    if low is None or high is None:
        return f"{tell(1.0 if share is None else share)} {unit}"
    ends = f"{tell(low)} to {tell(high)}"
    return f"{ends} {unit}" if share is None else f"{tell(share)} [{ends}] {unit}"
