"""The folder of a ``measure``: what was planned, one line per run, all raw samples, and the report.

::

    DIR/
        plan.json       everything that was fixed before the first command
        runs.jsonl      one Run a line, in the order they ended
        samples/        raw samples: runs, idle baselines, calibrations
        logs/           what the commands of pairs printed
        running.json    the command that runs now, if any
        report.json     the document, as it was printed

Append-only: a line is one write and ``fsync``. A torn last line, left by a crash, is set aside in ``runs.torn``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.measure.command import alive
from harness.measure.types import VERSION, Plan, Run
from harness.meter.proctree import stat_of
from harness.meter.samples import Recording, read
from harness.record.ledger import sha256_of, write_atomically
from harness.record.record import SamplesFile
from harness.types import Frozen, UserError, canonical_json

_FIXED_LATER = frozenset({"why_pairs", "seed", "first"})
"""Keys of a plan that follow from the others or are drawn once: a folder that goes on keeps its own."""


class Folder:
    """One measurement on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.samples = root / "samples"
        self.logs = root / "logs"
        self.report = root / "report.json"
        self._plan = root / "plan.json"
        self._runs = root / "runs.jsonl"
        self._running = root / "running.json"
        self.unkept: list[Run] = []
        """Runs that were made but did not get onto the disk."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder; one writer at a time.

        Raises:
            UserError: another process holds it, or it holds something else than a measurement.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.root}: can't be made a folder ({error.strerror}); name another") from error
        others = [path for path in self.root.iterdir() if path.name != ".lock"]
        if others and not self._plan.exists():
            raise UserError(
                f"{self.root}: holds something else than a measurement (no plan.json); name an empty folder"
            )
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{self.root}: another measurement is writing here; wait, or name another") from None
            self._mend()
            yield

    def plan(self) -> Plan | None:
        """As it was fixed; ``None`` in a new folder.

        Raises:
            UserError: it is not one of ours, or of another version.
        """
        if not self._plan.exists():
            return None
        try:
            data = json.loads(self._plan.read_text(encoding="utf-8"))
            if isinstance(data, dict) and data.get("version") != VERSION:
                raise UserError(f"{self._plan}: version {data.get('version')}, this harness writes and reads {VERSION}")
            return Plan.model_validate(data)
        except (ValueError, ValidationError) as error:
            raise UserError(f"{self._plan}: not the plan of a measurement: {error}") from error

    def agree(self, plan: Plan) -> Plan:
        """Fix the plan, or go on under the one that stands.

        Raises:
            UserError: what stands differs; the text names every key.
        """
        kept = self.plan()
        if kept is None:
            write_atomically(self._plan, _json(plan))
            return plan
        before, now = kept.model_dump(mode="json"), plan.model_dump(mode="json")
        different = [key for key in now if key not in _FIXED_LATER and before[key] != now[key]]
        if different:
            told = "; ".join(f"{key}: {_short(before[key])} then, {_short(now[key])} now" for key in different)
            raise UserError(
                f"{self.root}: was begun under another plan ({told}). A plan is never changed by looking: give the "
                "same command to go on, or name another folder"
            )
        return kept

    def append(self, run: Run) -> None:
        """Add a run; when this returns it is on the disk.

        Raises:
            OSError: it is not; :meth:`runs` has it all the same.
        """
        line = (canonical_json(run) + "\n").encode()
        try:
            descriptor = os.open(self._runs, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                if os.write(descriptor, line) != len(line):
                    raise OSError(errno.ENOSPC, "the disk took only a part of a line")
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            self.unkept.append(run)
            error.filename = str(self._runs)
            raise

    def runs(self) -> list[Run]:
        """All runs in the order they ended; a torn last line is left out.

        Raises:
            UserError: naming the line that can't be read.
        """
        if not self._runs.exists():
            return [*self.unkept]
        lines = self._runs.read_bytes().split(b"\n")[:-1]
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(Run.model_validate_json(line))
            except ValidationError as error:
                raise UserError(f"{self._runs}:{number}: not a run: {error.errors()[0]['msg']}") from error
        return found + self.unkept

    def begun(self, pid: int, key: str) -> None:
        """Note which command runs now."""
        stat = stat_of(pid)
        if stat is not None:
            write_atomically(self._running, _json({"pid": pid, "started": stat.started, "key": key}))

    def ended(self) -> None:
        """It does not any more."""
        self._running.unlink(missing_ok=True)

    def refuse_leftover(self) -> None:
        """Nothing is measured beside a command that a killed measurement left behind.

        Raises:
            UserError: it still runs.
        """
        if not self._running.exists():
            return
        try:
            left: dict[str, Any] = json.loads(self._running.read_text(encoding="utf-8"))
            running = alive(int(left["pid"]), int(left["started"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._running}: does not tell which command a killed measurement left; see that none runs, then "
                "delete it"
            ) from error
        if running:
            raise UserError(
                f"{self.root}: the command of {left['key']} still runs as process {left['pid']}, left by a measurement "
                "that was killed; end it or wait for it"
            )
        self.ended()

    def recordings(self, runs: Iterable[Run]) -> dict[str, Recording]:
        """Every samples file that the runs name and that can be read, by its path in the folder."""
        found = {}
        for file in _files(runs):
            with suppress(UserError, OSError):
                found[file.path] = read(self.root / file.path)
        return found

    def tampered(self, runs: Iterable[Run]) -> list[str]:
        """Samples files that are gone or are not what they were."""
        found = []
        for file in _files(runs):
            path = self.root / file.path
            if not path.is_file():
                found.append(f"{path}: is missing")
            elif sha256_of(path) != file.sha256:
                found.append(f"{path}: is not the file that was written (SHA-256 differs)")
        return found

    def _mend(self) -> None:
        if not self._runs.exists():
            return
        content = self._runs.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            with (self.root / "runs.torn").open("ab") as aside:
                aside.write(content[end:] + b"\n")
            with self._runs.open("r+b") as stream:
                stream.truncate(end)
                os.fsync(stream.fileno())


def _files(runs: Iterable[Run]) -> list[SamplesFile]:
    files = [
        file
        for run in runs
        for left in run.meters
        for file in (left.samples, left.idle.samples if left.idle else None)
        if file is not None
    ]
    return list({file.path: file for file in files}.values())


def _json(value: Frozen | dict[str, Any]) -> str:
    data = value.model_dump(mode="json") if isinstance(value, Frozen) else value
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _short(value: Any) -> str:
    text = canonical_json(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
