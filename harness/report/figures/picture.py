"""What a figure is to the page: panels, a legend, and words for those who don't see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.report.palette import Style
from harness.report.svg import swatch
from harness.types import Basis


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a legend."""

    words: str
    sign: Markup


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure. ``narrow`` is the same drawn for a phone; empty where ``panels`` fit both.

    ``takeaway`` is the sentence under the figure; ``description`` tells every point in words, for those who
    don't see the figure and those who want the numbers.
    """

    key: str
    title: str
    panels: Sequence[Markup]
    takeaway: str
    description: Sequence[str] = ()
    legend: Sequence[Key] = ()
    narrow: Sequence[Markup] = ()
    missing: str = ""  # why there is nothing to draw, or what could not be drawn


def legend(arms: Sequence[str], styles: dict[str, Style], notes: dict[str, str] | None = None) -> tuple[Key, ...]:
    """One entry for each arm, with a note behind its name."""
    return tuple(
        Key(words=arm + (f" ({notes[arm]})" if notes and notes.get(arm) else ""), sign=swatch(styles[arm]))
        for arm in arms
    )


def watermark(basis: Basis) -> str:
    """Written across a panel of energies that no instrument read."""
    return "" if basis is Basis.MEASURED else basis.value.upper()
