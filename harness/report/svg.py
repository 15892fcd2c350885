"""A small chart: scales, axes, marks, direct labels, as inline SVG that the page's CSS colours.

Drawn by hand, not by a plotting library: text stays text (selectable, read aloud, in the page's font),
colours are CSS variables so that dark mode and print need no second picture, and the bytes depend on the
data alone. Positions are pixels of the view box with one decimal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from harness.report.palette import Marker, Style


@dataclass(frozen=True)
class Axis:
    """A scale from ``low`` to ``high`` in data units, with its label (which states the unit)."""

    low: float
    high: float
    label: str
    tick: Callable[[float], str] = "{:g}".format
    log: bool = False
    count: int = 6  # about how many ticks

    def share(self, value: float) -> float:
        """Where ``value`` lies between the ends, 0 to 1; outside it for values outside."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round numbers inside the ends."""
        return log_ticks(self.low, self.high, self.count) if self.log else ticks(self.low, self.high, self.count)


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten, about ``count`` of them."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Powers of ten; with 2 and 5 between them where that leaves too few."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for multiples in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        found = [m * 10.0**d for d in decades for m in multiples if low * 0.999 <= m * 10.0**d <= high * 1.001]
        if len(found) >= min(count, 4):
            break
    thin = max(1, math.ceil(len(found) / (count * 1.5)))
    return found[::thin]


def padded(values: Iterable[float], share: float = 0.06, *, include: Iterable[float] = ()) -> tuple[float, float]:
    """Ends of an axis that holds all values with a little air; never a width of 0."""
    found = [*values, *include]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    width = high - low
    if width <= max(abs(low), abs(high)) * 1e-9:
        width = abs(high) if abs(high) > 1e-12 else 1.0
    return low - share * width, high + share * width


@dataclass
class Chart:
    """One panel. Marks are added in the order they are to be painted."""

    key: str  # unique on the page: prefix of element ids
    width: float
    height: float
    x: Axis
    y: Axis
    title: str  # for screen readers
    left: float = 62
    right: float = 16
    top: float = 26
    bottom: float = 46
    watermark: str = ""
    heading: str = ""
    _inside: list[str] = field(default_factory=list)  # clipped to the plotting area
    _above: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Pixel of a data x."""
        return self.left + self.x.share(value) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Pixel of a data y; larger values are higher up."""
        return self.height - self.bottom - self.y.share(value) * (self.height - self.top - self.bottom)

    def add(self, markup: str, *, clip: bool = True) -> None:
        """Any other SVG."""
        (self._inside if clip else self._above).append(markup)

    def rect(self, x0: float, x1: float, y0: float, y1: float, cls: str, style: str = "") -> None:
        """A filled rectangle between data coordinates; may reach beyond the axes, where it is cut."""
        left, right = sorted((self.px(x0), self.px(x1)))
        top, bottom = sorted((self.py(y0), self.py(y1)))
        self.add(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            f'class="{cls}"{_style(style)}/>'
        )

    def polygon(self, points: Sequence[tuple[float, float]], cls: str, style: str = "") -> None:
        """A filled area."""
        self.add(f'<polygon points="{self._points(points)}" class="{cls}"{_style(style)}/>')

    def line(
        self, points: Sequence[tuple[float, float]], colour: str, *, width: float = 2.0, dash: str = "",
        opacity: float = 1.0, cls: str = "line",
    ) -> None:  # fmt: skip
        """A polyline through data points."""
        if len(points) < 2:
            return
        style = f"stroke:{colour};stroke-width:{width:g}"
        style += f";stroke-dasharray:{dash.replace(' ', ',')}" if dash else ""
        style += f";opacity:{opacity:g}" if opacity != 1 else ""
        self.add(f'<polyline points="{self._points(points)}" class="{cls}" style="{style}"/>')

    def whisker(self, x: float, low: float, high: float, style: Style, *, dx: float = 0.0) -> None:
        """An interval in y, with caps; cut at the axes' ends."""
        at, top, bottom = self.px(x) + dx, self.py(high), self.py(low)
        path = f"M{at:.1f},{top:.1f}V{bottom:.1f}M{at - 4:.1f},{top:.1f}h8M{at - 4:.1f},{bottom:.1f}h8"
        self.add(f'<path d="{path}" class="whisker" style="stroke:{style.colour}"/>')

    def whisker_x(self, low: float, high: float, y: float, style: Style) -> None:
        """An interval in x, with caps."""
        left, right, at = self.px(low), self.px(high), self.py(y)
        path = f"M{left:.1f},{at:.1f}H{right:.1f}M{left:.1f},{at - 4:.1f}v8M{right:.1f},{at - 4:.1f}v8"
        self.add(f'<path d="{path}" class="whisker" style="stroke:{style.colour}"/>')

    def mark(
        self, x: float, y: float, style: Style, tip: str, *, dx: float = 0.0, hollow: bool = False, size: float = 0.0
    ) -> None:
        """A point with its tooltip."""
        shape = marker(style.marker, self.px(x) + dx, self.py(y), size or style.size)
        paint = f"stroke:{style.colour};fill:{'var(--paper)' if hollow else style.colour}"
        self.add(f'<g class="mark" style="{paint}"><title>{escape(tip)}</title>{shape}</g>')

    def text(
        self, x: float, y: float, words: str, *, cls: str = "note", anchor: str = "start", colour: str = ""
    ) -> None:
        """Words at a pixel position."""
        self.add(text(x, y, words, cls=cls, anchor=anchor, colour=colour), clip=False)

    def labels(self, wanted: Sequence[tuple[float, float, str, str]], *, gap: float = 14, leader: bool = True) -> None:
        """Direct labels to the right of points: (pixel x, pixel y, words, colour), pushed apart vertically."""
        ordered = sorted(wanted, key=lambda label: (label[1], label[2]))
        placed = spread([label[1] for label in ordered], gap, self.top + 4, self.height - self.bottom - 2)
        for (x, y, words, colour), at in zip(ordered, placed, strict=True):
            if leader and abs(at - y) > 3:
                self.add(f'<path d="M{x + 2:.1f},{y:.1f}L{x + 9:.1f},{at:.1f}" class="leader"/>', clip=False)
            self.text(x + 11, at + 4, words, cls="direct", colour=colour)

    def svg(self, described_by: str = "") -> Markup:
        """The finished panel. Nothing is added after this."""
        area = (self.left, self.top, self.width - self.left - self.right, self.height - self.top - self.bottom)
        describe = f' aria-describedby="{escape(described_by)}"' if described_by else ""
        box = 'x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"'.format(*area)
        parts = [
            f'<svg class="chart" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'role="img" aria-label="{escape(self.title)}"{describe}>',
            f'<clipPath id="{self.key}-clip"><rect {box}/></clipPath>',
            f'<g clip-path="url(#{self.key}-clip)">',
        ]
        if self.watermark:
            x, y = area[0] + area[2] / 2, area[1] + area[3] / 2
            size = min(area[2] / (0.95 * len(self.watermark)), area[3] / 2.2)
            parts.append(
                f'<text x="{x:.1f}" y="{y:.1f}" class="watermark" text-anchor="middle" dominant-baseline="central" '
                f'style="font-size:{size:.0f}px" transform="rotate(-14 {x:.1f} {y:.1f})">'
                f"{escape(self.watermark)}</text>"
            )
        parts += ["</g>", self._axes(), f'<g clip-path="url(#{self.key}-clip)">', *self._inside, "</g>", *self._above]
        return Markup("".join([*parts, "</svg>"]))  # every piece was escaped where it came in

    def _axes(self) -> str:
        left, right = self.left, self.width - self.right
        top, bottom = self.top, self.height - self.bottom
        parts = ['<g class="axes">']
        for value in self.y.ticks():
            at = self.py(value)
            zero = " zero" if value == 0 and self.y.low < 0 else ""
            parts.append(f'<path d="M{left:.1f},{at:.1f}H{right:.1f}" class="grid{zero}"/>')
            parts.append(text(left - 7, at + 4, self.y.tick(value), cls="tick", anchor="end"))
        for value in self.x.ticks():
            at = self.px(value)
            parts.append(f'<path d="M{at:.1f},{bottom:.1f}v5" class="axis"/>')
            parts.append(text(at, bottom + 18, self.x.tick(value), cls="tick", anchor="middle"))
        parts.append(f'<path d="M{left:.1f},{bottom:.1f}H{right:.1f}" class="axis"/>')
        parts.append(text((left + right) / 2, self.height - 7, self.x.label, cls="label", anchor="middle"))
        if self.heading:
            parts.append(text(4, 15, self.heading, cls="heading"))
        # Above the axis and level: nobody should have to turn their head to read what is plotted.
        parts.append(text(4, top - 9, self.y.label, cls="label"))
        return "".join([*parts, "</g>"])

    def _points(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in points)


def text(x: float, y: float, words: str, *, cls: str, anchor: str = "start", colour: str = "") -> str:
    """One SVG text element, its words escaped."""
    paint = f' style="fill:{colour}"' if colour else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}"{where}{paint}>{escape(words)}</text>'


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted positions moved as little as a forward and a backward pass need to be ``gap`` apart."""
    placed: list[float] = []
    for position in wanted:
        placed.append(max(position, placed[-1] + gap) if placed else max(position, low))
    limit = high
    for i in range(len(placed) - 1, -1, -1):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed


def marker(shape: Marker, x: float, y: float, r: float) -> str:
    """A marker's outline around a pixel; shapes differ enough to be told apart without colour."""
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    if shape in {"plus", "cross"}:
        d = r if shape == "plus" else r * 0.8
        arms = f"M{x - d:.1f},{y:.1f}h{2 * d:.1f}M{x:.1f},{y - d:.1f}v{2 * d:.1f}"
        if shape == "cross":
            arms = f"M{x - d:.1f},{y - d:.1f}l{2 * d:.1f},{2 * d:.1f}M{x - d:.1f},{y + d:.1f}l{2 * d:.1f},{-2 * d:.1f}"
        return f'<path d="{arms}" class="strokes"/>'
    corners = {
        "square": (4, 45.0),
        "diamond": (4, 0.0),
        "triangle": (3, -90.0),
        "down": (3, 90.0),
        "pentagon": (5, -90.0),
    }
    count, start = corners[shape]
    radius = r * 1.25
    points = (
        (x + radius * math.cos(math.radians(start + 360 * i / count)),
         y + radius * math.sin(math.radians(start + 360 * i / count)))
        for i in range(count)
    )  # fmt: skip
    return '<polygon points="{}"/>'.format(" ".join(f"{a:.1f},{b:.1f}" for a, b in points))


def swatch(style: Style) -> Markup:
    """A line and marker for a legend, hidden from screen readers: the word beside it says it all."""
    dash = f";stroke-dasharray:{style.dash.replace(' ', ',')}" if style.dash else ""
    return Markup(
        '<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        f'<path d="M1,7H33" class="line" style="stroke:{style.colour};stroke-width:{style.width:g}{dash}"/>'
        f'<g class="mark" style="stroke:{style.colour};fill:{style.colour}">'
        f"{marker(style.marker, 17, 7, style.size)}</g>"
        "</svg>"
    )


def _style(style: str) -> str:
    return f' style="{style}"' if style else ""
