"""One look per arm: colour, marker and dash together, so that colour is never the only sign.

Colours are CSS variables (``--arm-0`` ...) of ``style.css``: after Okabe and Ito's palette for colour-blind
readers (jfly.uni-koeln.de/color, 2008), darkened for white paper and lightened for dark mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Marker = Literal["circle", "square", "triangle", "diamond", "down", "pentagon", "plus", "cross"]

_METHODS: tuple[tuple[int, Marker, str], ...] = (
    (0, "circle", ""),
    (1, "square", ""),
    (2, "diamond", ""),
    (3, "pentagon", ""),
)
_CONTROLS: tuple[tuple[int, Marker, str], ...] = (
    (4, "triangle", "6 3"),
    (5, "down", "2 3"),
    (6, "cross", "8 3 2 3"),
    (7, "plus", "1 3"),
    (2, "triangle", "4 2"),
    (3, "down", "10 4"),
    (4, "cross", "3 5"),
    (5, "plus", "5 5"),
)


@dataclass(frozen=True, slots=True)
class Style:
    """How an arm is drawn; ``role`` decides line width and opacity."""

    colour: str
    marker: Marker
    dash: str
    role: Literal["baseline", "method", "control"]

    @property
    def width(self) -> float:
        """Stroke width of its lines in pixels."""
        return {"baseline": 2.0, "method": 2.6, "control": 1.5}[self.role]

    @property
    def size(self) -> float:
        """Half the size of its marker in pixels."""
        return {"baseline": 4.5, "method": 5.5, "control": 4.5}[self.role]


def styles(baseline: str, methods: Sequence[str], controls: Sequence[str]) -> dict[str, Style]:
    """Styles by arm; salient for the methods, quiet for the controls, grey for the baseline."""
    found = {baseline: Style("var(--arm-base)", "circle", "", "baseline")}
    for i, arm in enumerate(methods):
        slot, marker, dash = _METHODS[i % len(_METHODS)]
        found[arm] = Style(f"var(--arm-{slot})", marker, dash, "method")
    for i, arm in enumerate(controls):
        slot, marker, dash = _CONTROLS[i % len(_CONTROLS)]
        found[arm] = Style(f"var(--arm-{slot})", marker, dash, "control")
    return found
