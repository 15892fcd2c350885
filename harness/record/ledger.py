"""The results store: one folder a result set, append-only, atomic, tolerant of a torn last line.

::

    results/<set>/
        set.json          schema, suite, fingerprint of the code that may add to it
        suite.yaml        the suite file as it was
        records.jsonl     one Record a line, in the order they ended
        plan.json         what was planned and skipped, at the last `run`
        samples/          raw meter samples, one file an attempt; idle baselines and calibrations beside them
        events/           what each worker said, one file an attempt
        judgement.json    what was concluded when the last `run` ended
        seal.json         SHA-256 of all of these and of the page at that moment (``seal.py``)

A line is written with one ``write`` and ``fsync``; a crash in mid-write leaves a torn last line, which
is set aside into ``records.torn`` at the next opening for writing and reported, never silently dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.record.record import SCHEMA, Record, SamplesFile, Status
from harness.types import Frozen, UserError, canonical_json

RAW_FOLDERS = ("samples", "events")
SHARED = ("idle-", "calibration")
"""How the names of files begin that several records share."""
ORPHAN = "-orphan"


class SetInfo(Frozen):
    """What a result set says of itself."""

    record_schema: int = SCHEMA
    suite: str
    title: str
    code_revision: str  # git revision with "+dirty-<hash>"; "unknown" outside a checkout


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: readers see the old or the new content, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # a full disk is told without a name
        raise
    finally:
        temporary.unlink(missing_ok=True)


class Ledger:
    """A result set on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def _records_path(self) -> Path:
        return self.root / "records.jsonl"

    def info(self) -> SetInfo | None:
        """What the set says of itself; ``None`` if it is new."""
        path = self.root / "set.json"
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(data, dict) and data.get("record_schema", SCHEMA) > SCHEMA:
                raise UserError(
                    f"{path}: written by a newer version (schema {data['record_schema']}, this one reads up to "
                    f"{SCHEMA}); update the harness"
                )
            return SetInfo.model_validate(data)
        except (ValueError, ValidationError) as error:
            raise UserError(f"{path}: not a result set's description: {error}") from error

    def create(self, info: SetInfo, suite_text: str) -> None:
        """Start the set, or bring its description up to date."""
        write_atomically(self.root / "suite.yaml", suite_text)
        write_atomically(self.root / "set.json", json.dumps(info.model_dump(mode="json"), indent=2) + "\n")

    @contextmanager
    def writing(self) -> Iterator[list[str]]:
        """Hold the set for writing; yields what had to be mended. One writer at a time.

        Raises:
            UserError: another process is writing to this set, or nothing can be written there.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = (self.root / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"{self.root}: a result set can't be written there ({error.strerror}); choose another folder with "
                "--results"
            ) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.root}: another run is writing to this result set; wait for it, or choose another "
                    "folder with --results"
                ) from None
            yield self._mend()

    def _mend(self) -> list[str]:
        if not self._records_path.exists():
            return []
        content = self._records_path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end == len(content):
            return []
        with (self.root / "records.torn").open("ab") as aside:
            aside.write(content[end:] + b"\n")
        with self._records_path.open("r+b") as stream:
            stream.truncate(end)
            os.fsync(stream.fileno())
        return [f"{self._records_path}: the last line was torn by a crash; set aside in records.torn, its run repeats"]

    def append(self, record: Record) -> None:
        """Add a record; when this returns it is on the disk."""
        line = (canonical_json(record) + "\n").encode()
        descriptor = os.open(self._records_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            written = os.write(descriptor, line)
            if written != len(line):
                raise OSError(f"{self._records_path}: only {written} of {len(line)} bytes could be written")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def records(self) -> list[Record]:
        """Every attempt, oldest first. A torn last line is left out; a bad line elsewhere is an error."""
        if not self._records_path.exists():
            return []
        lines = self._records_path.read_bytes().split(b"\n")
        lines.pop()  # empty, unless the last write was cut
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(Record.model_validate_json(line))
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"])
                raise UserError(
                    f"{self._records_path}:{number}: not a record ({where}: {first['msg']}); "
                    "the set was edited or comes from another version"
                ) from error
        return found

    def set_aside_orphans(self, records: list[Record]) -> list[str]:
        """Keep raw files that no record refers to under another name: their run was killed before its record.

        Returns a sentence for each. Idle baselines and calibrations stay: they are numbered anyway.
        """
        known = {file.path for record in records for file in record.files}
        said = []
        for folder in RAW_FOLDERS:
            for path in sorted((self.root / folder).glob("*")):
                name = path.relative_to(self.root).as_posix()
                if name in known or path.name.startswith(SHARED) or ORPHAN in path.name or not path.is_file():
                    continue
                kept = unused(path.with_name(f"{path.stem}{ORPHAN}{path.suffix}"))
                path.rename(kept)
                said.append(f"{name}: its run was killed before its record; kept as {kept.name}, used nowhere")
        return said

    def file_reference(self, path: Path, count: int) -> SamplesFile:
        """A finished file inside the set, with its hash, for a record."""
        return SamplesFile(path=path.relative_to(self.root).as_posix(), sha256=sha256_of(path), count=count)

    def write_json(self, name: str, value: Any) -> None:
        """Keep a JSON document beside the records."""
        write_atomically(self.root / name, json.dumps(value, indent=1, sort_keys=True) + "\n")

    def read_json(self, name: str) -> Any:
        """A JSON document beside the records, or ``None``.

        Raises:
            UserError: it is there and no JSON.
        """
        path = self.root / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValueError as error:
            raise UserError(f"{path}: not JSON: {error}") from error


def unused(path: Path) -> Path:
    """The path itself, or with the first number from 2 on that nothing has yet: raw files are never overwritten."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def latest(records: list[Record]) -> dict[str, Record]:
    """The record that speaks for each run: the last ``ok`` one, else the last of all."""
    chosen: dict[str, Record] = {}
    for record in records:
        before = chosen.get(record.run_id)
        if before is None or record.status is Status.OK or before.status is not Status.OK:
            chosen[record.run_id] = record
    return chosen
