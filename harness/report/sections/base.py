"""The seam of page sections: one file and one line in :data:`SECTIONS` for each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from harness.registry import Registry

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from harness.report.view import View


class Section(ABC):
    """A part of the page with a heading of its own."""

    name: ClassVar[str]  # anchor on the page, and of its template unless ``html`` is overridden
    title: ClassVar[str]
    short: ClassVar[str]  # in the table of contents
    order: ClassVar[int]  # smaller comes first

    @abstractmethod
    def context(self, view: View) -> dict[str, Any]:
        """What the template reads, beside ``view`` and ``section``."""

    def html(self, view: View, environment: Environment) -> Markup:
        """The section's inside; by default its template. Overridden by sections from outside packages."""
        from markupsafe import Markup

        template = environment.get_template(f"{self.name}.html.j2")
        return Markup(template.render(view=view, section=self, **self.context(view)))

    def markdown(self, view: View) -> str:
        """The section in Markdown; empty where a comment on a change does not need it."""
        return ""


SECTIONS: Registry[type[Section]] = Registry(
    "section",
    {
        "verdicts": "harness.report.sections.verdicts:Verdicts",
        "scaling": "harness.report.sections.scaling:Scaling",
        "ratios": "harness.report.sections.ratios:Ratios",
        "tradeoff": "harness.report.sections.tradeoff:Tradeoff",
        "controls": "harness.report.sections.controls:Controls",
        "activity": "harness.report.sections.activity:ActiveShare",
        "footprint": "harness.report.sections.footprint:FootprintSection",
        "comparisons": "harness.report.sections.comparisons:Comparisons",
        "failures": "harness.report.sections.failures:Failures",
        "measurement": "harness.report.sections.measurement:Measurement",
        "provenance": "harness.report.sections.provenance:Provenance",
    },
)


def ordered() -> list[Section]:
    """All sections in the page's order."""
    return sorted((kind() for _, kind in SECTIONS.items()), key=lambda section: (section.order, section.name))
