"""The report: one offline HTML page, and the same in Markdown and JSON. Pure: same input, same bytes."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.judge.types import Judgement
from harness.record.record import Record
from harness.types import UserError

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from harness.report.view import View

Format = Literal["html", "md", "json"]
TEMPLATES = Path(__file__).parent / "templates"


def render_html(judgement: Judgement, records: Sequence[Record]) -> str:
    """One HTML file that loads nothing from anywhere and reads without scripts."""
    from markupsafe import Markup

    from harness.report.keynumbers import key_numbers
    from harness.report.sections.base import ordered
    from harness.report.view import View

    environment = _environment()
    view = View(judgement, tuple(records))
    answer, *rest = _clauses(judgement.headline) or ["No conclusion was drawn"]
    text = environment.get_template("page.html.j2").render(
        view=view,
        answer=answer,
        rest=rest,
        tiles=key_numbers(view),
        sections=[(section, section.html(view, environment)) for section in ordered()],
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        script=Markup((TEMPLATES / "script.js").read_text(encoding="utf-8")),
    )
    return "\n".join(line.rstrip() for line in text.splitlines() if line.strip()) + "\n"


def render_markdown(judgement: Judgement, records: Sequence[Record]) -> str:
    """Verdicts, comparisons, controls and footprint as tables, for a comment on a change."""
    from harness.report.markdown import escape
    from harness.report.sections.base import ordered
    from harness.report.view import View

    view = View(judgement, tuple(records))
    parts = [
        f"# {'[SIMULATED] ' if view.simulated else ''}{escape(judgement.title)}",
        f"**{escape(judgement.headline or 'No conclusion was drawn.')}**",
        f"> **{view.basis.value.upper()}**: {view.basis_lead}",
    ]
    for section in ordered():
        inside = section.markdown(view)
        if inside:
            parts += [f"## {section.title}", inside]
    return "\n\n".join([*parts, *_markdown_losses(view)]) + "\n"


def _markdown_losses(view: View) -> list[str]:
    from harness.report.formats import plural, quantity
    from harness.report.markdown import escape

    joules, known, unknown = view.wasted_joules
    lines = [f"- {escape(problem)}" for problem in view.judgement.problems]
    if view.judgement.skipped:
        lines.append(f"- {plural(len(view.judgement.skipped), 'run')} skipped")
    if known or unknown:
        lost = f"- {plural(known + unknown, 'attempt')} came to nothing"
        lines.append(
            lost + (f", {quantity(joules, 'J')} ({view.basis.value}) with them" if known else ", energy unknown")
        )
    return ["## Problems", "\n".join(lines)] if lines else []


def render_json(judgement: Judgement, records: Sequence[Record]) -> str:
    """The judgement and a summary of each attempt, canonical: sorted keys, one line."""
    from harness.report.json import document
    from harness.types import canonical_json

    return canonical_json(document(judgement, records)) + "\n"


RENDERERS: dict[str, Callable[[Judgement, Sequence[Record]], str]] = {
    "html": render_html,
    "md": render_markdown,
    "json": render_json,
}


def render(judgement: Judgement, records: Sequence[Record], form: Format = "html") -> str:
    """The report in one of its formats.

    Raises:
        UserError: no such format.
    """
    if form not in RENDERERS:
        raise UserError(f"unknown report format {form!r}; known: {', '.join(RENDERERS)}")
    return RENDERERS[form](judgement, records)


def write(judgement: Judgement, records: Sequence[Record], path: Path, form: Format = "html") -> Path:
    """Write the report; a reader sees the old file or the whole new one, never half of it.

    Raises:
        UserError: no such format, or the place can't be written.
    """
    text = render(judgement, records, form)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would keep a published page from its readers
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise UserError(f"{path}: the report can't be written here ({error.strerror}); choose another place") from error
    return path


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import escape

    from harness.judge.controls import only_before_holm
    from harness.report import formats
    from harness.report.figures.ratios import text as ratio_interval
    from harness.report.sections.controls import ratio
    from harness.report.sections.footprint import amount
    from harness.report.svg import swatch

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_keep_units,
    )
    environment.tests["only_before_holm"] = only_before_holm
    environment.filters.update(
        shown=formats.shown, percent=formats.percent, quantity=formats.quantity, parameters=formats.parameters,
        significant=formats.significant, decimals=formats.number, plural=formats.plural, bound=formats.bound,
        inner=formats.inner, capital=formats.capital, p_value=formats.p_value, swatch=swatch, ratio=ratio,
        amount=amount, verbatim=escape, exp_ratio=_exp_ratio, ratio_interval=ratio_interval,
        difference=_difference, soften=_soften, metric_label=_metric_label,
    )  # fmt: skip
    return environment


def _keep_units(value: Any) -> Any:
    """No line break between a number and its per cent; markup has been through this already."""
    from markupsafe import Markup

    if isinstance(value, str) and not isinstance(value, Markup):
        return re.sub(r"(?<=\d) %", "\u00a0%", value)
    return value


def _clauses(headline: str) -> list[str]:
    """The headline's clauses, each a sentence of its own: the first is the answer."""
    parts = [part.strip(" .") for part in headline.split("; ")]
    return [part[0].upper() + part[1:] + "." for part in parts if part]


def _soften(words: str) -> Markup:
    """Words in round brackets set smaller: intervals belong to the headline without shouting it down."""
    from markupsafe import Markup, escape

    pieces = re.split(r"(\([^()]*\))", words)
    soft = Markup("<small>{}</small>")
    return Markup("").join(soft.format(p) if p.startswith("(") else escape(p) for p in pieces)


def _exp_ratio(log_ratio: float | None) -> str:
    from harness.report import formats

    return formats.MISSING if log_ratio is None else formats.number(math.exp(min(log_ratio, 700.0)), 3)


def _difference(value: float | None, digits: int) -> str:
    from harness.report import formats

    if value is None:
        return formats.MISSING
    return ("+" if value > 0 else "") + formats.number(value, digits + 1)


def _metric_label(name: str, view: View) -> str:
    return next((metric.label for metric in view.metrics if metric.name == name), name)
