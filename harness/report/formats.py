"""Numbers to words, in one place: units, intervals, and what stands where a number is missing.

A missing number is a word, never 0; a number with one observation says so, never "±0".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from harness.judge.types import Estimate
from harness.types import Basis

MISSING = "not measured"
MINUS = "\u2212"

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
# Units an amount may be told in, largest first: factor from the unit it comes in, name for people.
_LADDERS: dict[str, tuple[tuple[float, str], ...]] = {
    "J": ((1e9, "GJ"), (1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")),
    "kWh": ((1e9, "TWh"), (1e6, "GWh"), (1e3, "MWh"), (1.0, "kWh"), (1e-3, "Wh"), (1e-6, "mWh")),
    "kg CO2e": ((1e3, "t CO2e"), (1.0, "kg CO2e"), (1e-3, "g CO2e"), (1e-6, "mg CO2e")),
    "kg": ((1e3, "t"), (1.0, "kg"), (1e-3, "g"), (1e-6, "mg"), (1e-9, "µg")),
    "USD": ((1e6, "million USD"), (1.0, "USD"), (1e-3, "mUSD"), (1e-6, "µUSD")),
    "s": ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms")),
    "FLOPs": tuple((10.0 ** (3 * i), f"{p}FLOPs") for i, p in reversed(list(enumerate(["", *"kMGTPEZ"])))),
    "bytes": ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"), (1.0, "bytes")),
    "parameters": ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"), (1.0, "")),
    "share": ((0.01, "%"),),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """An estimate in words: ``number`` and ``unit``, ``interval`` in brackets or why there is none, ``n``."""

    number: str
    unit: str
    interval: str
    n: str
    basis: str

    @property
    def value(self) -> str:
        """Number and unit."""
        return f"{self.number} {self.unit}".rstrip()

    @property
    def plus(self) -> str:
        """The sign of a positive difference; nothing before what is negative or rounds to 0."""
        return "" if self.number.startswith(MINUS) or not self.number.strip("0.,") else "+"

    @property
    def text(self) -> str:
        """All of it on one line, as Markdown and tooltips want it."""
        return f"{self.value} {self.interval}" + (f", {self.n}" if self.n else "") + f", {self.basis}"


def number(value: float, decimals: int) -> str:
    """Fixed decimals, a true minus sign, thousands separated; powers of ten where digits would not fit."""
    if value != 0 and (abs(value) >= 1e7 or abs(value) < 0.5 * 10 ** -min(decimals, 6)):
        return significant(value, 3)
    return fixed(value, decimals)


def fixed(value: float, decimals: int) -> str:
    """So many decimals, whatever the size; what rounds to zero has no sign."""
    if abs(value) >= 1e7:
        return significant(value, 3)
    text = f"{abs(value):,.{decimals}f}"
    return MINUS + text if value < 0 and float(text.replace(",", "")) != 0 else text


def significant(value: float, digits: int = 3) -> str:
    """So many significant digits; plain below ten million and above a millionth, else powers of ten."""
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if -6 <= exponent < 7:
        return number(value, max(0, digits - 1 - exponent))
    return f"{mantissa.replace('-', MINUS)} × 10{str(exponent).translate(_SUPERSCRIPT)}"


def scale_for(largest: float, unit: str) -> tuple[float, str]:
    """Factor and name of the unit in which ``largest`` (in ``unit``) reads best."""
    if unit.startswith("share "):  # "share per decade", "share of the dense value"
        return 0.01, ("points " if unit.startswith("share per ") else "% ") + unit.removeprefix("share ")
    ladder = _LADDERS.get(unit)
    if ladder is None:
        return 1.0, unit
    for factor, name in ladder:
        if abs(largest) >= factor * 0.9995:
            return factor, name
    return ladder[-1] if largest else next((step for step in ladder if step[0] == 1.0), ladder[-1])


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """A number with its unit in a readable scale; ``None`` is "not measured"."""
    if value is None:
        return MISSING
    if unit == "share":
        return percent(value)
    factor, name = scale_for(value, unit)
    return f"{significant(value / factor, digits)} {name}".rstrip()


def percent(share: float | None, decimals: int = 1) -> str:
    """A share as "61.8 %"."""
    return MISSING if share is None else f"{number(share * 100, decimals)} %"


def parameters(count: float | None) -> str:
    """ "3.2 M", "13 B"; the count of a model's parameters."""
    if count is None:
        return MISSING
    factor, name = scale_for(count, "parameters")
    return f"{count / factor:.3g} {name}".rstrip()


def basis(value: Basis) -> str:
    """The word for a basis."""
    return value.value


def _decimals(estimate: Estimate, factor: float) -> int:
    """Two significant digits of the interval's half-width, or a little more; three of the value where there is none."""
    if estimate.unit not in _LADDERS and estimate.low is None and estimate.value == int(estimate.value):
        return 0  # a count of things
    if estimate.low is not None and estimate.high is not None and estimate.high > estimate.low:
        half = (estimate.high - estimate.low) / 2 / factor
        decimals = 1 - math.floor(math.log10(half))
        size = abs(estimate.value / factor)  # 0 as well where the division underflows
        if 0 < size < half:  # a wide interval leaves one digit more of the value
            decimals = min(1 - math.floor(math.log10(size)), decimals + 1)
    elif estimate.value:
        decimals = 2 - math.floor(math.log10(abs(estimate.value / factor)))
    else:
        decimals = 1
    if estimate.unit.startswith("share"):
        return 2 if estimate.low is not None and decimals > 2 else 1
    return min(max(decimals, 0), 5)


def shown(estimate: Estimate) -> Shown:
    """An estimate in words, value and interval in one unit with one number of decimals."""
    ends = [end for end in (estimate.value, estimate.low, estimate.high) if end is not None]
    factor, unit = scale_for(max(abs(end) for end in ends), estimate.unit)
    decimals = _decimals(estimate, factor)
    counted = estimate.basis is Basis.COUNTED
    if counted and estimate.low == estimate.high:
        interval = "(exact count)"
    elif estimate.low is not None and estimate.high is not None:
        level = "" if estimate.level == 0.95 else f" at {percent(estimate.level, 0)}"
        low, high = fixed(estimate.low / factor, decimals), fixed(estimate.high / factor, decimals)
        interval = f"[{low}, {high}]{level}"
    else:
        interval = "(n=1, no interval)" if estimate.n == 1 else "(no interval)"
    told = estimate.n == 1 or (counted and estimate.low == estimate.high)
    share = estimate.unit.startswith("share ")
    write = (
        fixed if estimate.low is not None or share else number
    )  # beside an interval no digit below it means anything
    return Shown(
        number=write(estimate.value / factor, decimals),
        unit=unit,
        interval=interval,
        n="" if told else f"n={estimate.n}",
        basis=basis(estimate.basis),
    )


def estimate_text(estimate: Estimate | None) -> str:
    """One line for an estimate; ``None`` is "not measured"."""
    return MISSING if estimate is None else shown(estimate).text


def p_value(value: float | None) -> str:
    """ "p = 0.012", "p < 0.001", or that no test was made."""
    if value is None:
        return "no test"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def bound(value: float | None, unit: str) -> str:
    """A bound in the unit of what it bounds, without more digits than it was given."""
    if value is None:
        return "none"
    if unit.startswith("share"):
        factor, name = scale_for(value, unit)
        return f"{_plain(value / factor)} {name}"
    return f"{_plain(value)} {unit}".rstrip()


def _plain(value: float) -> str:
    return f"{value:.6g}".replace("-", MINUS)


def inner(label: str) -> str:
    """A label inside a sentence: its first letter small, unless it is an abbreviation."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]


def capital(words: str) -> str:
    """Words at the start of a sentence."""
    return words[:1].upper() + words[1:]


def plural(count: int, one: str, many: str | None = None) -> str:
    """ "1 run", "3 runs"."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[A-Za-z])")


def sentences(text: str) -> list[str]:
    """The sentences of a reason, at least one (perhaps empty): short places show the first."""
    return _BETWEEN_SENTENCES.split(text.strip())
