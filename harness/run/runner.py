"""Walks the plan: skip what is done, idle baseline, start a worker, meter it, keep its record.

Nothing that happens inside a run ends the suite: an exception, a kill, a time-out or a full memory
becomes a record. ``^C`` ends the run in progress, keeps what it took as wasted, and stops; the same
command goes on from there.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.meter.base import METERS
from harness.meter.calibration import summary
from harness.meter.energy import idle_power
from harness.meter.live import Live
from harness.meter.sampler import Sampler, SamplerError
from harness.meter.samples import read
from harness.record import fingerprint
from harness.record.assemble import Attempt, assemble
from harness.record.ledger import Ledger, SetInfo, latest, unused
from harness.record.record import IdleBaseline, Record, SamplesFile, Status
from harness.record.seal import break_seal
from harness.run import place
from harness.run.cooldown import LIMIT_S as COOLDOWN_LIMIT_S
from harness.run.cooldown import Cooldown, temperature_c
from harness.run.events import Progress
from harness.run.launch.local import LocalLauncher
from harness.run.watch import INTERRUPTED, Metering, uuid_of, watch
from harness.suite.spec import Block, PlannedRun, Suite
from harness.suite.spec import Protocol as RunProtocol
from harness.types import Basis, UserError

MAX_ATTEMPTS = 3
"""A run that failed or was invalid is tried again by the next ``run``, this often in all."""


class Display(Protocol):
    """What the runner tells the person who watches."""

    def start(self, planned: PlannedRun, number: int, total: int) -> None:
        """A run begins."""

    def update(self, progress: Progress, elapsed_s: float, live: Live) -> None:
        """It goes on."""

    def end(self, record: Record) -> None:
        """It has ended."""

    def say(self, text: str) -> None:
        """Anything else worth a line."""


@dataclass
class Outcome:
    """What became of a walk."""

    done: int = 0  # runs that are ok now, earlier ones included
    new: int = 0  # runs started this time
    left: int = 0  # runs that could still be done
    failed: int = 0  # runs that are not ok after their last attempt, earlier ones included
    interrupted: bool = False
    out_of_budget: bool = False


@dataclass(frozen=True)
class MeterChoice:
    """Which meter, with what options, and why."""

    name: str
    options: dict[str, Any]
    why: str


class Runner:
    """One walk over a plan into one result set."""

    def __init__(
        self,
        suite: Suite,
        blocks: tuple[Block, ...],
        ledger: Ledger,
        meter: MeterChoice,
        display: Display,
        *,
        budget_s: float | None = None,
        mix_revisions: bool = False,
        new_blocks: bool = False,
        device_id: str = "cpu",
    ) -> None:
        self.suite = suite
        self.blocks = blocks
        self.ledger = ledger
        self.meter = meter
        self.display = display
        self.budget_s = budget_s if budget_s is not None else suite.budget_s
        self.mix_revisions = mix_revisions
        self.new_blocks = new_blocks
        self.machine = fingerprint.machine()
        self.revision = fingerprint.code_revision()
        self.launcher = LocalLauncher()
        self.attempts: dict[str, int] = {}  # number of the last one, which names its files
        self.failures: dict[str, int] = {}  # attempts that count towards giving up: ^C does not
        self.calibration: SamplesFile | None = None  # of this walk
        self.device_id = device_id  # "cpu" or the GPU's UUID: what the plan sees, then what a worker says it uses

    def run(self, suite_text: str, context: dict[str, Any]) -> Outcome:
        """Do what is left of the plan. ``context`` is kept as ``plan.json``, before the first run starts.

        Raises:
            UserError: the set is being written by another run, or holds records of another code
                revision or machine.
        """
        with self.ledger.writing() as mended:
            for text in mended:
                self.display.say(text)
            records = self.ledger.records()
            self._refuse_a_mix(records)
            self._leave_blocks_of_other_places(records)
            break_seal(self.ledger)
            for text in self.ledger.set_aside_orphans(records):
                self.display.say(text)
            context = self._kept(context, records)
            self.ledger.create(
                SetInfo(suite=self.suite.name, title=self.suite.title, code_revision=self.revision), suite_text
            )
            self.ledger.write_json("plan.json", context)
            return self._walk(records)

    def _refuse_a_mix(self, records: list[Record]) -> None:
        kept = [record for record in records if record.ok]
        revisions = {str(record.fingerprint.get("revision")) for record in kept}
        if revisions - {self.revision} and not self.mix_revisions:
            raise UserError(
                f"{self.ledger.root}: holds runs of code revision {', '.join(sorted(revisions))}, this is "
                f"{self.revision}; start anew with --fresh or another --results folder, or accept the mix with "
                "--mix-revisions"
            )
        meters = {record.meter.name for record in kept if record.meter is not None}
        if meters - {self.meter.name} and not self.mix_revisions:
            raise UserError(
                f"{self.ledger.root}: holds runs metered by {', '.join(sorted(meters))}, this would be "
                f"{self.meter.name}; pairs need the same meter. Ask for it with --meter, start anew with --fresh or "
                "another --results folder, or accept the mix with --mix-revisions"
            )
        elsewhere = place.others(records, self._here)
        if elsewhere and not self.new_blocks and not self.mix_revisions:
            raise UserError(
                f"{self.ledger.root}: holds {len(elsewhere)} runs made elsewhere, the last "
                f"{place.told(elsewhere[-1], self._here)}; pairs need one machine and one card. With --new-blocks "
                "the set goes on with blocks that were not begun there, each of them whole on this card. Or start anew "
                "with --fresh or another --results folder"
            )

    @property
    def _here(self) -> place.Place:
        cards = METERS.get(self.meter.name).cards(self.meter.options)
        return fingerprint.machine_id(self.machine), self.device_id, tuple(sorted(cards))

    def _leave_blocks_of_other_places(self, records: list[Record]) -> None:
        if not self.new_blocks or self.mix_revisions:
            return
        mine = place.open_here(self.blocks, records, self._here)
        if len(mine) < len(self.blocks):
            left = len(self.blocks) - len(mine)
            self.display.say(f"{left} of {len(self.blocks)} blocks were begun on another machine or card: left to it")
        self.blocks = mine

    def _kept(self, context: dict[str, Any], records: list[Record]) -> dict[str, Any]:
        """The context with what an earlier walk fixed: claims stay as they stood before the first good run.

        Skips of other parts of the same suite (``--only``, ``--shard``) are kept too.
        """
        earlier = self.ledger.read_json("plan.json") or {}
        claims = earlier.get("claims")
        if claims is not None and claims != context.get("claims") and any(record.ok for record in records):
            self.display.say(
                "claims: kept as they stood before the first run, the suite's have changed since; to be judged by "
                "the new ones start anew with --fresh or another --results folder"
            )
            context = context | {"claims": claims}
        if earlier.get("skipped") and earlier.get("suite") == context.get("suite"):
            here = {planned.spec.run_id for block in self.blocks for planned in block.runs}
            others = [item for item in earlier["skipped"] if item["run_id"] not in here]
            context = context | {"skipped": [*others, *context.get("skipped", [])]}
        return context

    def _walk(self, records: list[Record]) -> Outcome:
        began = time.monotonic()
        outcome = Outcome()
        known = latest(records)
        for record in records:
            self.attempts[record.run_id] = max(self.attempts.get(record.run_id, 0), record.attempt)
            if not record.ok and record.reason != INTERRUPTED:
                self.failures[record.run_id] = self.failures.get(record.run_id, 0) + 1
        todo = [
            (block, position, planned)
            for block in self.blocks
            for position, planned in enumerate(block.runs)
            if planned.skip is None
        ]
        outcome.done = sum(1 for _, _, planned in todo if self._is_done(planned, known))
        left = [item for item in todo if not self._is_done(item[2], known) and not self._is_hopeless(item[2], known)]
        outcome.left = len(left)
        outcome.failed = len(todo) - outcome.done - outcome.left
        idle: dict[str, _Idle] = {}
        pace = _Pace()
        sampler = Sampler(self.meter.name, self.meter.options, self.suite.sample_hz)
        scratch = self.ledger.root / "samples" / "cooldown.samples"
        cooldown = Cooldown(
            self.suite.cooldown_c, lambda: temperature_c(sampler, uuid_of(self.device_id), scratch), self.display.say
        )
        try:
            sampler.open()
            if any(block.protocol is not RunProtocol.COUNT for block, _, _ in left):
                self._calibrate(sampler)
            for number, (block, position, planned) in enumerate(left, start=1):
                expected_s = planned.prediction.seconds or 0.0
                run_began = time.monotonic()
                if not self._may_begin(block, began - expected_s * pace.factor, cooldown):
                    outcome.out_of_budget = True
                    break
                if block.block_id not in idle:
                    idle[block.block_id] = self._idle(block, sampler)
                self.display.start(planned, number, len(left))
                record = self._one(block, position, planned, sampler, idle[block.block_id])
                self.ledger.append(record)
                self.display.end(record)
                outcome.new += 1
                pace.add(expected_s, time.monotonic() - run_began)
                if record.ok:
                    outcome.done += 1
                    outcome.left -= 1
                elif record.reason == INTERRUPTED:
                    outcome.interrupted = True
                    break
                else:
                    outcome.failed += 1
        except KeyboardInterrupt:
            outcome.interrupted = True
        finally:
            sampler.close()
        return outcome

    def _may_begin(self, block: Block, spent_from: float, cooldown: Cooldown) -> bool:
        """Whether the budget has room for a run; waits until the device is cool for it.

        ``spent_from`` is on the monotonic clock: when the walk began, less the time that the run is expected to take.
        """
        spare_s = math.inf if self.budget_s is None else self.budget_s - (time.monotonic() - spent_from)
        if spare_s < 0:
            return False
        if block.protocol is RunProtocol.COUNT:
            return True
        return cooldown.wait(block.block_id, min(COOLDOWN_LIMIT_S, spare_s)) or spare_s >= COOLDOWN_LIMIT_S

    def _is_done(self, planned: PlannedRun, known: dict[str, Record]) -> bool:
        record = known.get(planned.spec.run_id)
        return record is not None and record.ok

    def _is_hopeless(self, planned: PlannedRun, known: dict[str, Record]) -> bool:
        record = known.get(planned.spec.run_id)
        if record is None or record.reason == INTERRUPTED:
            return False
        if record.status is Status.OUT_OF_MEMORY:
            return True
        return self.failures.get(record.run_id, 0) >= MAX_ATTEMPTS

    def _calibrate(self, sampler: Sampler) -> None:
        """Poll the meter fast for a moment, where that shows anything, so that its refresh need not be assumed."""
        path = self._shared_file("calibration.samples")
        try:
            found = sampler.calibrate(uuid_of(self.device_id), path)
        except (SamplerError, UserError) as error:
            self.display.say(f"no calibration, what is assumed of the meter stays: {error}")
            return
        if found is not None:
            recording = read(path)
            self.calibration = self.ledger.file_reference(path, len(recording.samples))
            self.display.say(f"calibration: {summary(recording.info, found)}")

    def _shared_file(self, name: str) -> Path:
        """A new file among the samples, numbered if an earlier walk had one of that name."""
        path = self.ledger.root / "samples" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return unused(path)

    def _idle(self, block: Block, sampler: Sampler) -> _Idle:
        """Mean power at rest before a block; unknown where the meter can't see rest."""
        if block.protocol is RunProtocol.COUNT or self.suite.idle_s <= 0:
            return _Idle()
        path = self._shared_file(f"idle-{block.block_id}.samples")
        try:
            info = sampler.start(None, uuid_of(self.device_id), path=path)
            if info.basis is Basis.MODELLED:  # CPU seconds of a process that is not there yet: no rest to see
                sampler.stop()
                path.unlink(missing_ok=True)
                return _Idle()
            time.sleep(info.margin_s)
            start_ns = time.monotonic_ns()
            time.sleep(self.suite.idle_s)
            end_ns = time.monotonic_ns()
            time.sleep(info.margin_s)
            sampler.stop()
            samples = read(path).samples
            baseline = IdleBaseline(
                samples=self.ledger.file_reference(path, len(samples)), start_ns=start_ns, end_ns=end_ns
            )
            return _Idle(idle_power(info, samples, start_ns, end_ns), baseline)
        except (SamplerError, UserError) as error:
            self.display.say(f"{block.block_id}: no idle baseline: {error}")
            return _Idle()

    def _one(self, block: Block, position: int, planned: PlannedRun, sampler: Sampler, idle: _Idle) -> Record:
        spec = planned.spec
        number = self.attempts.get(spec.run_id, 0) + 1
        self.attempts[spec.run_id] = number
        stem = spec.run_id if number == 1 else f"{spec.run_id}-attempt{number}"
        events_path = self.ledger.root / "events" / f"{stem}.jsonl"
        samples_path = self.ledger.root / "samples" / f"{stem}.samples"
        for path in (events_path, samples_path):
            path.parent.mkdir(parents=True, exist_ok=True)
        ended = watch(
            self.launcher,
            spec,
            events_path,
            Metering(sampler, samples_path),
            options=self._run_options(planned),
            timeout_s=self.suite.timeout_s,
            update=self.display.update,
        )
        self.device_id = ended.device_id or self.device_id
        attempt = Attempt(
            spec=spec,
            block_id=block.block_id,
            position=position,
            number=number,
            fingerprint=self.machine | {"revision": self.revision, "meter_choice": self.meter.why},
            fingerprint_id=fingerprint.machine_id(self.machine),
            status=ended.status,
            reason=ended.reason,
            idle_power_w=idle.power_w,
            meter_problem=ended.meter_problem,
            idle=idle.baseline,
            calibration=self.calibration if ended.info is not None and ended.info.calibration is not None else None,
            sampler_cpu_share=ended.sampler_cpu_share,
        )
        samples_file = self.ledger.file_reference(samples_path, len(ended.samples)) if samples_path.exists() else None
        events_file = self.ledger.file_reference(events_path, len(ended.events)) if events_path.exists() else None
        return assemble(attempt, ended.events, ended.info, ended.samples, samples_file, events_file)

    def _run_options(self, planned: PlannedRun) -> dict[str, str]:
        """Meter options of one run: a made-up instrument may plant other watts for each arm."""
        return {"arm": planned.spec.arm} if METERS.get(self.meter.name).by_arm else {}


@dataclass
class _Pace:
    """How this walk's runs take against what was predicted, for the budget."""

    expected_s: float = 0.0
    taken_s: float = 0.0

    def add(self, expected_s: float, taken_s: float) -> None:
        """One run has ended."""
        self.expected_s += expected_s
        self.taken_s += taken_s

    @property
    def factor(self) -> float:
        """Taken over predicted; 1 before anything is known."""
        return self.taken_s / self.expected_s if self.expected_s else 1.0


@dataclass(frozen=True)
class _Idle:
    """A block's idle baseline, where there is one."""

    power_w: float | None = None
    baseline: IdleBaseline | None = None
