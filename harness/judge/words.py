"""Numbers in sentences, the same everywhere in the judge's reasons."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.types import Estimate


def percent(share: float, digits: int = 1) -> str:
    """``0.45`` as "45 %", ``0.4512`` as "45.1 %"."""
    text = f"{100 * share:.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + " %"


def interval(estimate: Estimate, *, share: bool, digits: int | None = None) -> str:
    """ " (95 % interval 58.9 to 61.4)", or " (n=1, no interval)"; ``digits`` as the value has, 1 or 3 by default."""
    if estimate.low is None or estimate.high is None:
        return f" (n={estimate.n}, no interval)"
    low, high = (100 * estimate.low, 100 * estimate.high) if share else (estimate.low, estimate.high)
    digits = digits if digits is not None else 1 if share else 3
    return f" ({percent(estimate.level, 0)} interval {low:.{digits}f} to {high:.{digits}f})"


def saved(estimate: Estimate) -> str:
    """ "saves 60.2 % (...)", or "takes 3.1 % more (...)" where nothing is saved."""
    verb = "saves " + percent(estimate.value) if estimate.value >= 0 else f"takes {percent(-estimate.value)} more"
    return verb + interval(estimate, share=True)


def listing(words: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"


def count(number: int, noun: str) -> str:
    """ "1 run", "3 runs"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def sentence(text: str) -> str:
    """With a full stop; names of arms keep their small letters."""
    text = text.strip()
    return text if text.endswith((".", "!", "?")) or not text else text + "."
