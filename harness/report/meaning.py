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
        "electricity of data centres in 2026, more than", 1e12, "kWh", "IEA, Electricity 2024", 2024, "energy",
        "a year; all uses, of which training is a part that the source does not state",
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
    """For the comparison that the key numbers come from; empty where no saving was found at all."""
    comparison = view.headline
    if comparison is None:
        return []
    rows = []
    for fact in PUBLISHED:
        saving = comparison.saving if fact.follows == "energy" else comparison.time_saving
        claimed = " to ".join(_left(fact, share) for share in (CLAIMED_HIGH, CLAIMED_LOW))
        rows.append(Projection(fact, _amount(fact, fact.value), claimed, _found(fact, saving)))
    return rows


def _found(fact: Published, saving: Estimate | None) -> str:
    if saving is None:
        return formats.MISSING
    text = _left(fact, saving.value)
    if saving.low is not None and saving.high is not None:
        return f"{text} [{_left(fact, saving.high)} to {_left(fact, saving.low)}]"
    return f"{text} (n=1, no interval)" if saving.n == 1 else text


def _left(fact: Published, saving: float) -> str:
    return _amount(fact, fact.value * (1 - saving))


def _amount(fact: Published, value: float) -> str:
    if fact.unit == "kWh":
        return formats.quantity(value, "kWh")
    return f"{formats.significant(value / 1e6)} million {fact.unit}"
