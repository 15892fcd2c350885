"""The whole audit of a result set: files, records, calculations, judgement, page."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.audit.arithmetic import arithmetic
from harness.audit.files import extra_files, raw_files
from harness.audit.rebuild import record_differences
from harness.audit.sealed import changed_files, kept_judgement, page_differs
from harness.audit.verdicts import verdict_statistics
from harness.judge.types import Judgement
from harness.record import fingerprint
from harness.record.ledger import Ledger
from harness.record.record import Record, Status
from harness.record.seal import Seal, seal_of
from harness.report.page import render_html
from harness.suite.spec import Protocol
from harness.types import UserError

JudgeSet = Callable[[Ledger], tuple[Judgement, list[Record]]]


@dataclass
class Report:
    """What the audit found. ``notes`` are what a reader should know and what is no fault."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    rebuilt: int = 0  # records that were put together again to the same bytes
    page: str = ""  # what the page was compared with, for people

    @property
    def text(self) -> str:
        """For people."""
        lines = [*self.findings, *(f"note: {note}" for note in self.notes)]
        if not self.findings:
            lines.append(
                f"{self.records} records, every number of them follows from the raw files; {self.rebuilt} were put "
                f"together again to the same bytes{self.page}"
            )
        return "\n".join(lines)

    @property
    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "findings": self.findings, "notes": self.notes, "records": self.records, "rebuilt": self.rebuilt,
        }  # fmt: skip


def audit(root: Path, page: Path | None, judge_set: JudgeSet) -> Report:
    """Derive everything again; ``page`` is compared byte by byte with the one that follows.

    Without ``page`` it is ``reports/<set>.html``, if that is there.

    Raises:
        UserError: there is no result set, or no such page.
    """
    ledger = Ledger(root)
    if not any((root / name).exists() for name in ("set.json", "plan.json", "records.jsonl")):
        raise UserError(f"{root}: no result set here; `python -m harness run SUITE --results DIR` makes one")
    if page is not None and not page.is_file():
        raise UserError(f"--page: there is no file {page}")
    report = Report()
    lines, records = _records(ledger, report)
    report.records = len(records)
    report.findings += raw_files(root, records)
    findings, notes = extra_files(root, records)
    report.findings += findings
    report.notes += notes
    report.findings += _attempts(records)
    _rebuild(ledger, records, lines, report)
    _conclusions(ledger, records, len(lines) == len(records), page, report, judge_set=judge_set)
    if report.findings:
        report.notes += _other_revision(records)
    return report


def _records(ledger: Ledger, report: Report) -> tuple[list[bytes], list[Record]]:
    """Lines of records.jsonl with their records; a line that is none is a finding, and left out."""
    path = ledger.root / "records.jsonl"
    if not path.is_file():
        report.findings.append(
            "records.jsonl: is missing; take it back from where the set was published, or record the set anew"
        )
        return [], []
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        report.findings.append(
            f"records.jsonl: its last line is cut ({len(content) - end} bytes without an end); `run` sets it aside and "
            "repeats its run"
        )
    lines, records = [], []
    for number, line in enumerate(content[:end].splitlines(), start=1):
        lines.append(line)
        try:
            records.append(Record.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            report.findings.append(
                f"records.jsonl:{number}: not a record ({where}: {first['msg']}): edited, cut, or of another version"
            )
    return lines, records


def _attempts(records: Sequence[Record]) -> Iterator[str]:
    """Attempts of a run count 1, 2, 3 in the order of their lines: a gap is a line that was taken out."""
    last: dict[str, int] = {}
    for record in records:
        wanted = last.get(record.run_id, 0) + 1
        if record.attempt != wanted:
            yield (
                f"{record.run_id}: attempt {record.attempt} stands where attempt {wanted} is expected: a line of "
                "records.jsonl was taken out, doubled or moved"
            )
        last[record.run_id] = record.attempt


def _rebuild(ledger: Ledger, records: Sequence[Record], lines: Sequence[bytes], report: Report) -> None:
    by_id = (
        {id(record): line for record, line in zip(records, lines, strict=False)} if len(records) == len(lines) else {}
    )
    old = 0
    for record in records:
        name = f"{record.run_id}, attempt {record.attempt}"
        if record.status is Status.SKIPPED:
            continue
        if record.ended is None:
            old += 1
            continue
        found = list(record_differences(ledger, record, by_id[id(record)])) if by_id else []
        report.findings += [f"{name}: {what}" for what in found]
        report.rebuilt += bool(by_id) and not found
    if old:
        report.notes.append(
            f"{old} of {len(records)} records are from before it was kept how a process ended and what the idle "
            "baseline is from: their sums are checked, the records themselves can't be put together again"
        )


def _conclusions(
    ledger: Ledger, records: Sequence[Record], whole: bool, page: Path | None, report: Report, *, judge_set: JudgeSet
) -> None:
    """Judgement and page, from the files alone."""
    seal = _seal(ledger, report)
    if seal is not None:
        report.findings += changed_files(ledger, seal)
    if not whole:
        report.notes.append("what was concluded can't be checked while a line of records.jsonl can't be read")
        return
    try:
        judgement, _ = judge_set(ledger)
    except UserError as error:
        report.findings.append(f"what was concluded can't be derived again: {error}")
        return
    report.findings += arithmetic(ledger.root, records, judgement)
    report.findings += verdict_statistics(records, judgement)
    report.findings += [
        f"{r.run_id}, attempt {r.attempt}: has no raw samples, its joules can't be derived again"
        for r in records
        if r.ok and r.spec.protocol is not Protocol.COUNT and r.samples is None
    ]
    report.findings += kept_judgement(ledger, judgement)
    _page(ledger, judgement, records, seal, page, report)


def _seal(ledger: Ledger, report: Report) -> Seal | None:
    try:
        seal = seal_of(ledger)
    except UserError as error:
        report.findings.append(str(error))
        return None
    if seal is None:
        report.notes.append(
            "the set has no seal: its last run did not end, or is from before there was one; whether lines or files "
            "were changed later shows only where raw files contradict them"
        )
    return seal


def _page(
    ledger: Ledger,
    judgement: Judgement,
    records: Sequence[Record],
    seal: Seal | None,
    page: Path | None,
    report: Report,
) -> None:
    from harness.record.seal import sum_of

    default = Path("reports") / f"{ledger.root.resolve().name}.html"
    shown = page or (default if default.is_file() else None)
    if seal is None and shown is None:
        return
    html = render_html(judgement, records)
    if seal is not None and sum_of(html.encode()) != seal.page_sha256:
        report.findings.append(
            f"the page that follows has SHA-256 {sum_of(html.encode())[:16]}, {seal.page_sha256[:16]} was written when "
            "the last run ended"
        )
    elif seal is not None:
        report.page = "; judgement and page likewise"
    differs = page_differs(shown, html) if shown is not None else None
    if differs is not None and (page is not None or seal is not None):
        report.findings.append(differs)
    elif differs is not None:
        report.notes.append(differs)
    elif shown is not None:
        report.page += f"; {shown} is the page that follows, byte by byte"


def _other_revision(records: Sequence[Record]) -> Iterator[str]:
    """Other code may derive other numbers: how to look at it with the same."""
    here = fingerprint.code_revision()
    there = sorted({str(r.fingerprint["revision"]) for r in records if "revision" in r.fingerprint} - {here})
    if there:
        yield (
            f"recorded by code revision {', '.join(there)}, audited by {here}: numbers that differ may come from the "
            f"code between them; `git checkout {there[0].split('+')[0]}` audits with the code that recorded"
        )
