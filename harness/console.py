"""The one way from text to a terminal for everything that is styled: by rich, and safe for words that others wrote."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from harness.streams import visible


class Console(rich.console.Console):
    """Rich's, without its markup: a title may hold brackets. Control characters in texts are shown, not obeyed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Segments of a renderable; see rich. Its own cursor movements are marked as such and stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
