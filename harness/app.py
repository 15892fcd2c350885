"""What each verb does, put together from the rooms of the house; the command line only prints it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import UserError
from harness.record.ledger import Ledger, latest, write_atomically
from harness.record.record import Record, Status
from harness.suite.spec import Suite

if TYPE_CHECKING:
    from harness.judge.types import Judgement
    from harness.run.runner import MeterChoice, Outcome
    from harness.suite.plan import Plan


@dataclass(frozen=True)
class RunResult:
    """What `run` ends with."""

    text: str
    document: dict[str, Any]
    interrupted: bool
    nothing_done: bool


def make_plan(
    path: Path,
    overrides: Sequence[str],
    only: str | None,
    shard: str | None,
    budget_s: float | None = None,
    results: Path | None = None,
) -> tuple[Suite, Plan]:
    """Load a suite file and plan it for this machine; what its result set already holds sharpens the times."""
    from harness.suite.load import load
    from harness.suite.machine import detect
    from harness.suite.plan import plan

    suite = load(path, overrides)
    records = set_of(suite, results).records()
    machine = detect(suite.device)
    return suite, plan(suite, machine, only=only, shard=shard, budget_s=budget_s, records=records)


def set_of(suite: Suite, results: Path | None) -> Ledger:
    """The result set of a suite: the folder asked for, else ``results/<name>``."""
    return Ledger(results or Path("results") / suite.name)


def run(
    suite_path: Path,
    *,
    results: Path | None,
    output: Path | None,
    budget: str | None,
    only: str | None,
    shard: str | None,
    meter: str | None,
    overrides: Sequence[str],
    fresh: bool,
    mix_revisions: bool,
) -> RunResult:
    """Plan, run what is left, judge, write the page."""
    from harness.report.page import write
    from harness.run.display import LiveDisplay
    from harness.run.runner import Runner
    from harness.suite.load import duration_s

    budget_s = duration_s(budget) if budget is not None else None
    suite, planned = make_plan(suite_path, overrides, only, shard, budget_s, results)
    choice = choose_meter(meter or suite.meter, planned.machine.device)
    ledger = set_of(suite, results)
    if fresh:
        _move_aside(ledger.root)
    page = output or Path("reports") / f"{ledger.root.resolve().name}.html"
    display = LiveDisplay()
    display.say(f"{suite.title}: {planned.summary}")
    display.say(f"meter: {choice.name}. {choice.why}")
    display.expect([planned_run for block in planned.blocks for planned_run in block.runs if planned_run.skip is None])
    runner = Runner(
        suite,
        planned.blocks,
        ledger,
        choice,
        display,
        budget_s=budget_s,
        mix_revisions=mix_revisions,
        device_id=planned.machine.uuid or "cpu",
    )
    outcome = runner.run(suite_path.read_text(encoding="utf-8"), _context(suite, planned, overrides))
    judgement, records = judge_set(ledger)
    if records:
        write(judgement, records, page)
    return RunResult(
        text=_closing_text(outcome, judgement, records, page, suite_path),
        document={
            "judgement": judgement.model_dump(mode="json"),
            "page": str(page),
            "results": str(ledger.root),
            "runs": {"done": outcome.done, "new": outcome.new, "left": outcome.left},
            "interrupted": outcome.interrupted,
        },
        interrupted=outcome.interrupted,
        nothing_done=outcome.done == 0,
    )


def choose_meter(request: str, device: str) -> MeterChoice:
    """The meter to use, with the reason."""
    from harness.meter.choose import choose
    from harness.run.runner import MeterChoice

    name, options, why = choose(request, device)
    return MeterChoice(name, options, why)


def _move_aside(root: Path) -> None:
    """``--fresh``: an old set is kept under another name, never deleted."""
    if not root.exists():
        return
    stamp = time.strftime("%Y%m%d-%H%M%S")
    root.rename(root.with_name(f"{root.name}.before-{stamp}"))


def _context(suite: Suite, planned: Plan, overrides: Sequence[str]) -> dict[str, Any]:
    """What judging needs later beside the records: suite and claims as they stood before the run, and skips."""
    from harness.judge.claims import load_claims

    return {
        "suite": suite.model_dump(mode="json"),
        "claims": [claim.model_dump(mode="json") for claim in load_claims(suite.claims)],
        "overrides": list(overrides),
        "machine": planned.machine.model_dump(mode="json"),
        "skipped": [
            {
                "run_id": item.spec.run_id,
                "arm": item.spec.arm,
                "size": item.spec.size,
                "seed": item.spec.seed,
                "reason": item.skip,
            }
            for item in planned.runs
            if item.skip is not None
        ],
    }


def judge_set(ledger: Ledger) -> tuple[Judgement, list[Record]]:
    """All conclusions of a result set, from its files alone."""
    from harness.judge.judge import judge
    from harness.judge.types import Claim, Skipped

    info = ledger.info()
    context = ledger.read_json("plan.json")
    if info is None or context is None:
        raise UserError(
            f"{ledger.root}: no result set here (set.json and plan.json are missing); "
            "`python -m harness run SUITE --results DIR` makes one"
        )
    suite = Suite.model_validate(context["suite"])
    records = ledger.records()
    suite_file = ledger.root / "suite.yaml"
    judgement = judge(
        suite.name,
        suite.title,
        records,
        [Claim.model_validate(claim) for claim in context["claims"]],
        suite.baseline,
        suite.footprint,
        suite.arms,
        [Skipped.model_validate(item) for item in context["skipped"]],
    )
    provenance = {
        **judgement.provenance,
        "code revision": info.code_revision,
        "overrides of the suite file": ", ".join(context["overrides"]) or "none",
        "suite file": suite_file.read_text(encoding="utf-8") if suite_file.exists() else "missing",
    }
    return judgement.model_copy(update={"provenance": provenance}), records


def render(results: Path, form: Literal["html", "md", "json"]) -> str:
    """A result set as html, md or json."""
    from harness.report import page

    return page.render(*judge_set(Ledger(results)), form)


def write_text(path: Path, text: str) -> None:
    """Write a page, whole or not at all."""
    write_atomically(path, text)


def verify(results: Path) -> tuple[Judgement, str, int]:
    """Verdicts, as a table and as an exit code."""
    from harness.judge.judge import exit_code
    from harness.report.terminal import verdict_table

    judgement, _ = judge_set(Ledger(results))
    return judgement, verdict_table(judgement), exit_code(judgement)


def compare(base: Path, new: Path) -> tuple[dict[str, Any], str, int]:
    """The regression gate between two result sets."""
    from harness.judge.gate import gate

    result = gate(judge_set(Ledger(base))[0], judge_set(Ledger(new))[0])
    return result.model_dump(mode="json"), result.text, result.exit_code


def audit(results: Path) -> list[str]:
    """What does not follow from the raw records and samples."""
    from harness.judge.audit import audit as findings

    ledger = Ledger(results)
    judgement, records = judge_set(ledger)
    return findings(ledger.root, records, judgement)


def validate(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """Each file's mistakes; an empty list is a good file."""
    from harness.suite.load import SuiteError, load

    problems: dict[Path, list[str]] = {}
    for path in paths:
        try:
            load(path, [])
            problems[path] = []
        except SuiteError as error:
            problems[path] = list(error.problems)
    return problems


def listing(what: str) -> list[dict[str, Any]]:
    """Rows of one `ls`."""
    if what in {"workloads", "sizes"}:
        from harness.workloads.base import WORKLOADS

        if what == "workloads":
            return [
                {"name": name, "version": kind.version, "examples": kind.examples} for name, kind in WORKLOADS.items()
            ]
        return [{"workload": name, "size": size} for name, kind in WORKLOADS.items() for size in kind().sizes()]
    if what == "methods":
        from harness.methods.base import METHODS

        return [{"name": name, "version": kind.version, "summary": kind.summary} for name, kind in METHODS.items()]
    if what == "meters":
        from harness.meter.base import METERS

        return [{"name": name, "here": kind.available() or "available"} for name, kind in METERS.items()]
    if what == "claims":
        from harness.judge.claims import load_claims

        return [{"id": claim.id, "claim": claim.text} for claim in load_claims("sat-article")]
    from harness.judge import footprint

    return footprint.list_regions() if what == "regions" else footprint.list_prices()


def doctor() -> tuple[dict[str, Any], str]:
    """This machine and its meters."""
    from harness.meter.base import METERS
    from harness.record import fingerprint
    from harness.suite.machine import detect

    machine = detect("auto")
    meters = {name: kind.available() for name, kind in METERS.items()}
    choice = choose_meter("auto", machine.device)
    document = {
        "machine": machine.model_dump(mode="json"),
        "packages": fingerprint.packages(),
        "revision": fingerprint.code_revision(),
        "meters": {name: reason or "available" for name, reason in meters.items()},
        "auto": {"meter": choice.name, "why": choice.why},
    }
    lines = [
        f"machine   {machine.description}",
        f"revision  {document['revision']}",
        *(f"meter     {name}: {reason or 'available'}" for name, reason in meters.items()),
        f"auto      {choice.name}. {choice.why}",
    ]
    return document, "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Plain aligned columns."""
    if not rows:
        return "nothing to list"
    names = list(rows[0])
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in names}
    lines = ["  ".join(name.ljust(widths[name]) for name in names).rstrip()]
    lines += ["  ".join(str(row[name]).ljust(widths[name]) for name in names).rstrip() for row in rows]
    return "\n".join(lines)


def _closing_text(outcome: Outcome, judgement: Judgement, records: list[Record], page: Path, suite_path: Path) -> str:
    from harness.report.terminal import verdict_table

    lines = [verdict_table(judgement) if records else "no runs, no verdicts", ""]
    failed = [record for record in latest(records).values() if record.status not in {Status.OK, Status.SKIPPED}]
    for record in failed:
        lines.append(f"{record.status.value}: {record.run_id}: {record.reason}")
    if outcome.interrupted or outcome.out_of_budget:
        why = "interrupted" if outcome.interrupted else "the budget is used up"
        lines.append(f"{why}; {outcome.left} runs left. The same command goes on: python -m harness run {suite_path}")
    if records:
        lines.append(f"page: {page}")
    return "\n".join(lines)
