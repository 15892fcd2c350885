"""The files of a result set: missing, extra, truncated, changed, swapped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.meter import samples as samples_format
from harness.record.ledger import ORPHAN, RAW_FOLDERS, SHARED, sha256_of
from harness.record.record import Record, SamplesFile
from harness.types import UserError

AGAIN = "take the file back from where the set was published, or record the set anew"


def raw_files(root: Path, records: Sequence[Record]) -> Iterator[str]:
    """What is wrong with the raw files that records refer to."""
    wanted = {file.path: file for record in records for file in record.files}
    sums = {path: sha256_of(root / path) for path in wanted if inside(root, path) and (root / path).is_file()}
    owners = {file.sha256: path for path, file in wanted.items()}
    for path, file in sorted(wanted.items()):
        if not inside(root, path):
            yield f"{path}: lies outside the result set; records.jsonl was edited"
        elif path not in sums:
            yield f"{path}: is missing; {AGAIN}"
        elif sums[path] != file.sha256:
            yield f"{path}: {_what_happened(root / path, file, sums[path], owners)}; {AGAIN}"
    own = Counter(file.path for record in records for file in (record.samples, record.events) if file is not None)
    for path, times in sorted(own.items()):
        if times > 1:
            yield f"{path}: {times} records refer to it, each has one of its own; records.jsonl was edited"


def extra_files(root: Path, records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Findings and notes about raw files that no record refers to."""
    findings, notes = [], []
    known = {file.path for record in records for file in record.files}
    for folder in RAW_FOLDERS:
        for path in sorted((root / folder).glob("*")):
            name = path.relative_to(root).as_posix()
            if name in known:
                continue
            if ORPHAN in path.name:
                notes.append(f"{name}: kept of a run that was killed before its record ({_held(path)}); used nowhere")
            elif path.name.startswith(SHARED):
                notes.append(f"{name}: no record refers to it; used nowhere")
            else:
                findings.append(
                    f"{name}: no record refers to it: its run was killed before its record (the next `run` keeps it as "
                    "an orphan), or its line was taken out of records.jsonl"
                )
    if (root / "records.torn").exists():
        notes.append("records.torn: a line that a crash cut; its run was repeated; used nowhere")
    return findings, notes


def inside(root: Path, path: str) -> bool:
    """Whether a path that a record gives stays within its result set."""
    return (root / path).resolve().is_relative_to(root.resolve())


def _what_happened(path: Path, file: SamplesFile, found: str, owners: dict[str, str]) -> str:
    said = f"has SHA-256 {found[:16]}, {file.sha256[:16]} is recorded"
    if found in owners:
        return f"{said}: it holds what {owners[found]} should hold"
    if path.suffix == ".samples":
        try:
            torn = samples_format.read(path).torn
        except UserError as error:
            return f"{said}: {error}"
        return f"{said}: {torn.removeprefix(f'{path}: ')}" if torn else f"{said}: it was changed"
    content = path.read_bytes()
    lines = content.count(b"\n")
    if lines < file.count or not content.endswith(b"\n"):
        return f"{said}: cut, {lines} of {file.count} lines are there"
    return f"{said}: it was changed"


def _held(path: Path) -> str:
    if path.suffix != ".samples":
        return f"{len(path.read_bytes().splitlines())} lines"
    try:
        return f"{len(samples_format.read(path).samples)} samples"
    except UserError:
        return "nothing that can be read"
