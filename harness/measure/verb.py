"""The verb, from its options to its document and exit code."""

from __future__ import annotations

import os
import random
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from harness.judge import stats
from harness.measure.command import Streams, refusal
from harness.measure.display import PairsDisplay
from harness.measure.document import document_of, is_sound, replay, text_of
from harness.measure.meters import Metering, plan_meters
from harness.measure.once import Task, idle, make_opinions, run
from harness.measure.pairs import Walk, first_arms, tail_of_log
from harness.measure.saving import counting_attempts, pairs_for
from harness.measure.signals import InterruptedBySignalError, Signals
from harness.measure.store import Folder
from harness.measure.text import show
from harness.measure.types import Document, MeterPlan, Plan, Role
from harness.record import fingerprint
from harness.record.ledger import write_atomically
from harness.streams import visible, visible_json
from harness.suite.units import parse_duration
from harness.types import UserError

UNTRUSTED = 4
STDERR = 2


@dataclass(frozen=True)
class Options:
    """What was asked for; durations as people write them, ``half_width`` in points, ``scatter`` in percent."""

    command: Sequence[str]
    versus: str | None = None
    shell: bool = False
    meters: Sequence[str] = ()
    devices: Sequence[str] = ()
    sample_hz: float = 20.0
    calibrate: bool = True
    idle: str | None = None
    step_time: str | None = None
    opinions: Sequence[str] = ()
    results: Path | None = None
    label: str = ""
    as_json: bool = False
    strict: bool = False
    pairs: int | None = None
    half_width: float = 2.0
    scatter: float = 3.0
    warmups: int = 1
    cooldown_c: float | None = None
    allow_failures: bool = False
    seed: int | None = None


@dataclass(frozen=True)
class Answer:
    """What the verb ends with. ``document`` is ``None`` where a signal came before there was anything to say."""

    document: Document | None
    exit_code: int


def measure(options: Options) -> Answer:
    """Meter a command once, or two in pairs.

    Raises:
        UserError: what was asked for makes no sense or can't be done here. No command was started then.
    """
    _check(options)
    used = plan_meters(options.meters, options.devices, os.environ)
    if options.devices and not any(meter.device for meter in used):
        names = ", ".join(meter.label for meter in used)
        raise UserError(f"--device names a card, and none is metered here (only {names}); leave it out")
    with _folder(options.results) as folder, folder.writing():
        # Signals are held before anything is imported that starts threads (numpy): a signal goes to any thread that
        # does not hold it.
        with Signals() as signals, ExitStack() as stack:
            plan = _agreed(options, plan_of(options, used), folder)
            meters = [Metering(meter, options.sample_hz, folder.samples) for meter in used]
            if _startable(plan):
                for meter in meters:
                    stack.callback(meter.close)
                    with signals.released():
                        meter.open()
            stopped = _go(options, plan, folder, meters, signals)
        runs = folder.runs()
        if stopped and plan.kind == "once":
            return Answer(None, 128 + stopped)
        kept = str(folder.root) if options.results is not None and not folder.unkept else ""
        document = document_of(plan, runs, folder.recordings(runs), kept=kept)
        try:
            write_atomically(folder.report, text_of(document))
        except OSError as error:
            _tell(f"the report is not kept: {error}")
            document = document.model_copy(update={"kept": ""})
        _tell_failure(document, folder)
        return Answer(document, _exit_code(document, strict=options.strict))


_OF_PAIRS = {
    "--pairs": "pairs",
    "--half-width": "half_width",
    "--scatter": "scatter",
    "--warmups": "warmups",
    "--cooldown": "cooldown_c",
    "--allow-failures": "allow_failures",
    "--seed": "seed",
}


def _check(options: Options) -> None:
    """What can be said before anything is opened.

    Raises:
        UserError: naming the option.
    """
    if not 0.5 <= options.sample_hz <= 1000:
        raise UserError(f"--sample-hz must lie between 0.5 and 1000, not {options.sample_hz:g}")
    if options.cooldown_c is not None and not 0 < options.cooldown_c <= 100:
        raise UserError(f"--cooldown must lie above 0 and at most at 100 degrees, not {options.cooldown_c:g}")
    if not all(device.strip() for device in options.devices):
        raise UserError("--device is empty: give the UUID of a card (nvidia-smi -L lists them)")
    if options.versus is None:
        usual = Options(command=())
        idle = [name for name, key in _OF_PAIRS.items() if getattr(options, key) != getattr(usual, key)]
        if idle:
            raise UserError(f"{', '.join(idle)}: only for two commands in pairs; add --vs 'CMD B', or leave it out")
    words = {"the command": [*options.command], "--vs": [options.versus or ""], "--label": [options.label]}
    for where, texts in (words | {"the working directory": [os.getcwd()]}).items():
        for text in texts:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise UserError(
                    f"{where}: {os.fsencode(text)!r} is not UTF-8, so no record can hold it; put it into a script and "
                    "measure that"
                )


def _check_output(path: Path) -> None:
    """That the document can be written there, before hours are spent on it.

    Raises:
        UserError: it can't.
    """
    why = ""
    if path.is_dir():
        why = "is a folder"
    elif not path.parent.is_dir():
        why = f"there is no folder {path.parent}"
    elif not os.access(path.parent, os.W_OK):
        why = f"nothing may be written in {path.parent}"
    if why:
        raise UserError(f"-o {path}: {why}; name another file")


def _agreed(options: Options, plan: Plan, folder: Folder) -> Plan:
    """The plan as it stands in the folder, once nothing speaks against starting."""
    make_opinions(plan.opinions)  # a lacking one is told before anything starts
    earlier = folder.plan()
    if earlier is not None and options.seed is not None and options.seed != earlier.seed:
        raise UserError(f"{folder.root}: its order was drawn by seed {earlier.seed}; leave --seed out to go on")
    if plan.kind == "once" and folder.runs():
        raise UserError(f"{folder.root}: holds a measurement already; name an empty folder")
    plan = folder.agree(plan)
    folder.refuse_leftover()
    return plan


def replayed(root: Path, *, strict: bool = False) -> tuple[Document, list[str], int]:
    """A kept measurement derived again from its raw samples; findings make the exit code 4."""
    document, findings = replay(Folder(root))
    untrusted = strict and not is_sound(document)
    return document, findings, UNTRUSTED if findings or untrusted else 0


def plan_of(options: Options, meters: Sequence[MeterPlan]) -> Plan:
    """Everything that is fixed before the start.

    Raises:
        UserError: naming the option.
    """
    argv = {"a": _argv(options.command, options.shell, "the command")}
    pairs, why, warmups, seed = 0, "", 0, 0
    if options.versus is not None:
        words = [options.versus] if options.shell else _split(options.versus)
        argv["b"] = _argv(words, options.shell, "--vs")
        pairs, why = _planned_pairs(options)
        if options.warmups < 0:
            raise UserError(f"--warmups must be 0 or more, not {options.warmups}")
        warmups = options.warmups
        seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    return Plan(
        kind="once" if options.versus is None else "pairs",
        argv=argv,
        shell=options.shell,
        label=options.label,
        directory=os.getcwd(),
        meters=tuple(meters),
        machine=fingerprint.machine(),
        sample_hz=options.sample_hz,
        idle_s=_duration("--idle", options.idle) or 0.0,
        step_s=_duration("--step-time", options.step_time),
        opinions=tuple(dict.fromkeys(options.opinions)),
        pairs=pairs,
        why_pairs=why,
        warmups=warmups,
        cooldown_c=options.cooldown_c,
        allow_failures=options.allow_failures,
        seed=seed,
        first=first_arms(pairs, seed),
    )


def _planned_pairs(options: Options) -> tuple[int, str]:
    if not (0 < options.half_width < 100 and 0 < options.scatter < 100):
        raise UserError("--half-width (points) and --scatter (percent of one run) must lie between 0 and 100")
    scatter = options.scatter / 100
    if options.pairs is not None:
        if options.pairs < 1:
            raise UserError(f"--pairs must be 1 or more, not {options.pairs}")
        if options.pairs == 1:
            return 1, "Asked for; one pair has no interval."
        half = stats.half_width(0.0, scatter, options.pairs)
        expected = f"to be expected: ±{100 * half:.2g} points or less"
        return options.pairs, f"Asked for; with {options.scatter:g} % scatter of a run (assumed) {expected}."
    try:
        pairs = pairs_for(options.half_width / 100, scatter)
    except ValueError as error:
        raise UserError(
            f"--half-width {options.half_width:g} at --scatter {options.scatter:g} takes {error}; ask for less, or "
            "give --pairs"
        ) from error
    return pairs, (
        f"Planned for ±{options.half_width:g} points or less, at {options.scatter:g} % scatter of a run (assumed)."
    )


def _go(options: Options, plan: Plan, folder: Folder, meters: Sequence[Metering], signals: Signals) -> int:
    """Run what is left; the signal that ended it between commands, or 0."""
    try:
        startable = _startable(plan)
        if startable and options.calibrate and not _is_done(plan, folder):
            for problem in filter(None, (meter.calibrate() for meter in meters)):
                _tell(problem)
        if plan.kind == "pairs":
            Walk(plan, folder, meters, signals, PairsDisplay()).go()
        else:
            _once(options, plan, folder, meters if startable else [], signals)
    except InterruptedBySignalError as error:
        _tell(f"{error}; {_how_to_go_on(plan, kept=options.results is not None)}")
        return error.number
    return 0


def _once(options: Options, plan: Plan, folder: Folder, meters: Sequence[Metering], signals: Signals) -> None:
    rest = idle("command", plan.idle_s, meters, signals)
    signals.pause(0)
    streams = Streams(stdout=STDERR) if options.as_json else Streams()
    task = Task("command", "a", plan.argv["a"], Role.ONCE, idle=rest, streams=streams)
    sys.stdout.flush()
    sys.stderr.flush()
    made = run(task, meters, make_opinions(plan.opinions), signals, started=lambda pid: folder.begun(pid, task.key))
    folder.ended()
    try:
        folder.append(made)
    except OSError as error:  # the command may have run for hours: its figures are told all the same
        _tell(f"this run is not kept: {error}")


def _startable(plan: Plan) -> bool:
    """Whether all commands can be; else nothing is metered, and the run says why."""
    return all(refusal(argv) is None for argv in plan.argv.values())


def _is_done(plan: Plan, folder: Folder) -> bool:
    return plan.kind == "pairs" and len(counting_attempts(plan, folder.runs())) == plan.pairs


def _exit_code(document: Document, *, strict: bool) -> int:
    if document.exit_code == 0 and strict and not is_sound(document):
        return UNTRUSTED
    return document.exit_code


def _tell_failure(document: Document, folder: Folder) -> None:
    """Of pairs: what the command that ended them had to say."""
    if document.plan.kind != "pairs" or not document.exit_code or not document.runs:
        return
    last = document.runs[-1].run
    if last.interrupted:
        _tell(f"interrupted; {_how_to_go_on(document.plan, kept=bool(document.kept))}")
    elif not last.ok:
        text = last.error or f"exit code {last.exit_code}"
        _tell(f"{last.key}: {text}; the pairs end here. What it printed last:")
        print(tail_of_log(folder, last.key), file=sys.stderr)


def _how_to_go_on(plan: Plan, *, kept: bool) -> str:
    if plan.kind == "once":
        return "the command was not started"
    return "the same command goes on from here" if kept else "with --results DIR it could go on later"


@contextmanager
def _folder(root: Path | None) -> Iterator[Folder]:
    """The folder asked for, or one that goes away again."""
    if root is not None:
        yield Folder(root)
        return
    with tempfile.TemporaryDirectory(prefix="harness-measure-") as path:
        yield Folder(Path(path))


def _argv(words: Sequence[str], shell: bool, where: str) -> tuple[str, ...]:
    if not words or not any(word.strip() for word in words):
        raise UserError(f"{where} is empty: measure -- CMD ARGS..., or measure --vs 'CMD B' -- CMD A")
    return ("/bin/sh", "-c", " ".join(words)) if shell else tuple(words)


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"--vs {text!r}: {error}; quote it as for a shell") from error


def _duration(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error


def answer(options: Options, output: Path | None) -> int:
    """Measure, then print: JSON or, of pairs, the report on stdout; the report of one command on stderr.

    ``output`` gets the JSON document as well. Returns the exit code.
    """
    if output is not None:
        _check_output(output)
    result = measure(options)
    if result.document is not None:
        _publish(result.document, output, as_json=options.as_json)
    return result.exit_code


def answer_again(root: Path, output: Path | None, *, as_json: bool, strict: bool) -> int:
    """Derive a kept measurement again and print it; findings go to stderr. Returns the exit code."""
    if output is not None:
        _check_output(output)
    document, findings, code = replayed(root, strict=strict)
    _publish(document, output, as_json=as_json, stream=sys.stdout)
    for finding in findings:
        _tell(finding)
    if not findings:
        _tell(f"{root}: every figure follows from the raw samples")
    return code


def _publish(document: Document, output: Path | None, *, as_json: bool, stream: TextIO | None = None) -> None:
    text = text_of(document)
    if as_json:
        sys.stdout.write(visible_json(text))
        for made in document.runs:
            for figure in made.figures:
                for why in figure.invalid:
                    _tell(f"{made.run.key}, {figure.meter}: {why}")
    else:
        show(document, stream or (sys.stderr if document.plan.kind == "once" else sys.stdout))
    if output is not None:
        write_atomically(output, text)


def _tell(text: str) -> None:
    print(visible(text), file=sys.stderr)
