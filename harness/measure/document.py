"""Plan, runs and samples to the whole answer. Pure but for reading the folder; ``--replay`` does it again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from harness.measure.figures import Recordings, figures_of
from harness.measure.saving import complete_pairs, counting_attempts, opinion_savings, savings
from harness.measure.store import Folder
from harness.measure.types import Document, Plan, Role, Run, RunFigures
from harness.types import UserError

INTERRUPTED = 130


def document_of(plan: Plan, runs: Sequence[Run], recordings: Recordings, *, kept: str = "") -> Document:
    """Everything that can be concluded. ``kept`` is the folder that stays, empty if it does not."""
    made = tuple(figures_of(plan, run, recordings) for run in runs)
    pairs = complete_pairs(plan, made) if plan.kind == "pairs" else {}
    counted = {id(half) for pair in pairs.values() for half in pair}
    return Document(
        plan=plan,
        runs=made,
        savings=savings(plan, pairs),
        opinion_savings=opinion_savings(pairs),
        done_pairs=len(pairs),
        wasted_j=_wasted([run for run in made if id(run) not in counted]) if plan.kind == "pairs" else {},
        notes=tuple(_notes(plan, runs, len(pairs))),
        exit_code=exit_code_of(plan, runs),
        kept=kept,
    )


def exit_code_of(plan: Plan, runs: Sequence[Run]) -> int:
    """The command's own; of pairs that of the command that ended them, 130 if a signal did, else 0."""
    if plan.kind == "once":
        return runs[-1].exit_code if runs else INTERRUPTED
    last = runs[-1] if runs else None
    if last is not None and last.interrupted:
        return last.exit_code if last.exit_code else INTERRUPTED
    if last is not None and not last.ok and (last.error or not plan.allow_failures):
        return last.exit_code
    return 0 if len(counting_attempts(plan, runs)) == plan.pairs else INTERRUPTED


def is_sound(document: Document) -> bool:
    """Whether every number that was asked for is there and nothing speaks against it."""
    if document.plan.kind == "once":
        return all(figure.sound for made in document.runs for figure in made.figures) and bool(document.runs)
    return bool(document.savings) and all(saving.used == document.plan.pairs for saving in document.savings)


def text_of(document: Document) -> str:
    """As JSON, the same bytes for the same document."""
    data = document.model_dump(mode="json")
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def replay(folder: Folder) -> tuple[Document, list[str]]:
    """The answer from the raw samples once more, and in what it or the files differ from what was kept.

    Raises:
        UserError: no measurement is kept there.
    """
    plan = folder.plan()
    if plan is None:
        raise UserError(f"{folder.root}: no measurement is kept here (no plan.json)")
    runs = folder.runs()
    findings = folder.tampered(runs)
    document = document_of(plan, runs, folder.recordings(runs), kept=str(folder.root))
    if not folder.report.exists():
        return document, [*findings, f"{folder.report}: is missing"]
    kept = folder.report.read_text(encoding="utf-8")
    try:
        where = json.loads(kept).get("kept", "")
    except (ValueError, AttributeError):
        return document, [*findings, f"{folder.report}: not JSON"]
    # A folder may be moved: that alone is no finding.
    if text_of(document.model_copy(update={"kept": where})) != kept:
        findings.append(f"{folder.report}: its bytes do not follow from plan.json, runs.jsonl and the samples")
    return document, findings


def _notes(plan: Plan, runs: Sequence[Run], done: int) -> list[str]:
    notes: list[str] = []
    if plan.kind == "once":
        return notes
    if done < plan.pairs:
        notes.append(f"{done} of {plan.pairs} planned pairs are done: what follows is not the planned answer yet")
    if plan.pairs % 2:
        notes.append("an odd number of pairs: one command goes first once more than the other")
    attempts = max((run.attempt for run in runs if run.role is Role.PAIR), default=1)
    if attempts > 1:
        notes.append("was interrupted and went on later; pairs that were cut in two were made anew")
    return notes


def _wasted(made: Sequence[RunFigures]) -> dict[str, float]:
    """Joules outside pairs by meter: warm-ups, halves of pairs that were cut. What is not known is left out."""
    spent: dict[str, float] = {}
    for run in made:
        for figure in run.figures:
            if figure.energy.joules is not None:
                spent[figure.meter] = spent.get(figure.meter, 0.0) + figure.energy.joules
    return spent
