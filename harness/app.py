"""What each verb does, put together from the rooms of the house; the command line only prints it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import UserError
from harness.record.ledger import Ledger, latest, write_atomically
from harness.record.record import Record, Status
from harness.suite.spec import Suite, levels_text
from harness.types import canonical_json

if TYPE_CHECKING:
    from harness.audit.audit import Report
    from harness.doctor.square_wave.experiment import Experiment
    from harness.doctor.types import Examination
    from harness.judge.types import Judgement
    from harness.run.runner import MeterChoice, Outcome
    from harness.suite.plan import Plan


@dataclass(frozen=True)
class RunResult:
    """What `run` ends with."""

    text: str
    document: dict[str, Any]
    interrupted: bool
    broken: bool  # a run failed, or there is none that is done


def make_plan(
    path: Path,
    overrides: Sequence[str],
    only: str | None,
    shard: str | None,
    budget_s: float | None = None,
    results: Path | None = None,
    card: str | None = None,
) -> tuple[Suite, Plan]:
    """Load a suite file and plan it for this machine, or for a ``card`` that is not here.

    What its result set already holds sharpens the times.
    """
    from harness.suite.load import load
    from harness.suite.machine import assumed, detect
    from harness.suite.plan import plan

    suite = load(path, overrides)
    records = set_of(suite, results).records()
    machine = detect(suite.device) if card is None else assumed(card)
    return suite, plan(suite, machine, only=only, shard=shard, budget_s=budget_s, records=records)


def budget_s(text: str | None) -> float | None:
    """Seconds of a ``--budget``."""
    from harness.suite.load import duration_s

    return None if text is None else duration_s(text)


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
    new_blocks: bool = False,
) -> RunResult:
    """Plan, run what is left, judge, write the page."""
    from harness.meter.base import METERS
    from harness.record.seal import put_seal
    from harness.report.page import write
    from harness.run.display import LiveDisplay
    from harness.run.runner import Runner

    limit_s = budget_s(budget)
    suite, planned = make_plan(suite_path, overrides, only, shard, limit_s, results)
    choice = choose_meter(meter or suite.meter, planned.machine.device)
    ledger = set_of(suite, results)
    if fresh:
        move_aside(ledger)
    done = {run_id for run_id, record in latest(ledger.records()).items() if record.ok}
    page = output or Path("reports") / f"{ledger.root.resolve().name}.html"
    display = LiveDisplay(basis=METERS.get(choice.name).basis)
    display.say(f"{suite.title}: {planned.summary}")
    display.say(f"meter: {choice.name}. {choice.why}")
    display.expect([item for item in planned.runs if item.skip is None and item.spec.run_id not in done])
    runner = Runner(
        suite,
        planned.blocks,
        ledger,
        choice,
        display,
        budget_s=limit_s,
        mix_revisions=mix_revisions,
        new_blocks=new_blocks,
        device_id=planned.machine.uuid or "cpu",
    )
    outcome = runner.run(suite_path.read_text(encoding="utf-8"), _context(suite, planned, overrides))
    judgement, records = judge_set(ledger)
    if records:
        write(judgement, records, page)
        put_seal(ledger, canonical_json(judgement), page)
    return RunResult(
        text=_closing_text(outcome, judgement, records, page, fresh=fresh),
        document={
            "judgement": judgement.model_dump(mode="json"),
            "page": str(page),
            "results": str(ledger.root),
            "runs": {"done": outcome.done, "new": outcome.new, "left": outcome.left, "failed": outcome.failed},
            "interrupted": outcome.interrupted,
        },
        interrupted=outcome.interrupted,
        broken=outcome.failed > 0 or outcome.done == 0,
    )


def choose_meter(request: str, device: str) -> MeterChoice:
    """The meter to use, with the reason."""
    from harness.meter.choose import choose
    from harness.run.runner import MeterChoice

    name, options, why = choose(request, device)
    return MeterChoice(name, options, why)


def move_aside(ledger: Ledger) -> None:
    """``--fresh``: an old set is kept under another name, never deleted.

    Raises:
        UserError: the folder holds something else than a result set, or another run is writing to it.
    """
    root = Path(os.path.abspath(ledger.root))
    if not root.exists() or not {path.name for path in root.iterdir()} - {".lock"}:
        return
    if not (root / "set.json").exists():
        raise UserError(
            f"{ledger.root}: is no result set (set.json is missing), --fresh leaves it alone; choose another folder "
            "with --results"
        )
    name = f"{root.name}.before-{time.strftime('%Y%m%d-%H%M%S')}"
    while root.with_name(name).exists():
        name += "-again"
    with ledger.writing():
        root.rename(root.with_name(name))


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
            | ({"levels": levels_text(item.spec.levels)} if item.spec.levels else {})
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
    try:
        suite = Suite.model_validate(context["suite"])
        claims = [Claim.model_validate(claim) for claim in context["claims"]]
        skipped = [Skipped.model_validate(item) for item in context["skipped"]]
        overrides = ", ".join(context["overrides"]) or "none"
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{ledger.root / 'plan.json'}: not what `run` wrote ({error}); it was edited or comes from another "
            "version. The records are untouched: the same `run` writes it anew"
        ) from error
    records = ledger.records()
    suite_file = ledger.root / "suite.yaml"
    judgement = judge(
        suite.name,
        suite.title,
        records,
        claims,
        suite.baseline,
        suite.footprint,
        suite.arms,
        skipped,
        experiments=suite.experiments,
    )
    provenance = {
        **judgement.provenance,
        "code revision": info.code_revision,
        "overrides of the suite file": overrides,
        "suite file": suite_file.read_text(encoding="utf-8") if suite_file.exists() else "missing",
    }
    return judgement.model_copy(update={"provenance": provenance}), records


def render(results: Path, form: Literal["html", "md", "json"]) -> str:
    """A result set as html, md or json."""
    from harness.report import page

    return page.render(*judge_set(Ledger(results)), form)


def write_text(path: Path, text: str) -> None:
    """Write a page, whole or not at all.

    Raises:
        UserError: the place can't be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); choose another place with -o") from error


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


def audit(results: Path, page: Path | None = None) -> Report:
    """What does not follow from the raw records and samples; ``page`` is compared with the one that follows."""
    from harness.audit.audit import audit as audited

    return audited(results, page, judge_set)


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
    if what in {"meters", "scenarios"}:
        return _instruments(what)
    if what == "claims":
        from harness.judge.claims import load_claims

        return [{"id": claim.id, "claim": claim.text} for claim in load_claims("sat-article")]
    from harness.judge import footprint

    return footprint.list_regions() if what == "regions" else footprint.list_prices()


def _instruments(what: str) -> list[dict[str, Any]]:
    if what == "meters":
        from harness.meter.base import METERS

        return [
            {"name": name, "basis": kind.basis.value, "here": kind.available() or "available"}
            for name, kind in METERS.items()
        ]
    from harness.meter.simulated.scenario import load_scenario, shipped

    return [{"name": name, "title": load_scenario(path).title} for name, path in shipped().items()]


def doctor(meter: str) -> tuple[Examination, str]:
    """This machine and its meters, and the screen that shows them."""
    from harness.doctor.examine import examine
    from harness.doctor.screen import screen

    found = examine(meter, choose_meter)
    return found, screen(found, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ)


def square_wave(meter: str, output: Path | None) -> tuple[Experiment, str]:
    """The experiment with its text; into ``output`` as JSON, its raw samples into a file beside it."""
    from harness.doctor.square_wave.experiment import experiment
    from harness.doctor.square_wave.show import text

    if output is not None and output.exists():
        raise UserError(f"{output}: exists already; an experiment is never overwritten, choose another -o")
    samples = output.with_suffix(".samples") if output is not None else None
    if samples is not None:
        samples.parent.mkdir(parents=True, exist_ok=True)
    found = experiment(meter, samples, lambda line: print(line, file=sys.stderr))
    if output is not None:
        write_text(output, json.dumps(found.model_dump(mode="json"), indent=1) + "\n")
    return found, text(found)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Plain aligned columns."""
    if not rows:
        return "nothing to list"
    names = list(rows[0])
    widths = {name: max(len(name), *(len(str(row[name])) for row in rows)) for name in names}
    lines = ["  ".join(name.ljust(widths[name]) for name in names).rstrip()]
    lines += ["  ".join(str(row[name]).ljust(widths[name]) for name in names).rstrip() for row in rows]
    return "\n".join(lines)


def _closing_text(outcome: Outcome, judgement: Judgement, records: list[Record], page: Path, *, fresh: bool) -> str:
    from harness.report.terminal import verdict_table

    lines = [verdict_table(judgement) if records else "no runs, no verdicts", ""]
    failed = [record for record in latest(records).values() if record.status not in {Status.OK, Status.SKIPPED}]
    for record in failed:
        lines.append(f"{record.status.value}: {record.run_id}: {record.reason}")
    for reason, number in Counter(skipped.reason for skipped in judgement.skipped).items():
        lines.append(f"skipped: {number} {'run' if number == 1 else 'runs'}: {reason}")
    if outcome.interrupted or outcome.out_of_budget:
        why = "interrupted" if outcome.interrupted else "the budget is used up"
        again = "The same command without --fresh" if fresh else "The same command"
        lines.append(f"{why}; {outcome.left} {'run' if outcome.left == 1 else 'runs'} left. {again} goes on from here")
    if records:
        lines.append(f"page: {page}")
    return "\n".join(lines)
