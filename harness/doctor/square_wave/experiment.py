"""The experiment from its start to its document: on a card, or on a simulated one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.doctor.square_wave.analysis import Findings, analyse
from harness.doctor.square_wave.load_simulated import simulate
from harness.doctor.square_wave.schedule import Done, Stretch, periods, schedule, transition_period_s
from harness.meter.base import METERS, MeterInfo, Sample
from harness.meter.nvml_facts import UPDATE_PERIOD_S
from harness.meter.sampler import Sampler, SamplerError
from harness.meter.samples import read, write
from harness.types import Basis, Frozen, UserError

SAMPLE_HZ = 100.0
"""Several reads to each refresh of the counter, so that its steps are placed within milliseconds."""
READY_TIMEOUT_S = 120.0
FALLBACK = "without a card: --meter simulated:h100 shows what the experiment does"


class Experiment(Frozen):
    """What was done and found; the document of ``--json``."""

    basis: Basis
    source: str
    findings: Findings
    stretches: tuple[Done, ...]
    samples: str = ""  # where the raw samples are kept


def experiment(
    request: str, samples_path: Path | None, say: Callable[[str], None], wave_s: float | None = None
) -> Experiment:
    """Run it. ``request`` is ``nvml`` (or ``auto``) or ``simulated:SCENARIO``; raw samples go to ``samples_path``.

    Raises:
        UserError: no card, no torch, a meter without counter or instant power, or a card that others use.
    """
    name, _, argument = request.partition(":")
    if name == "simulated":
        options = METERS.get(name).options_of(argument)
        info, samples, done, sensor_s = _simulated(Path(options["scenario"]), wave_s)
        if samples_path is not None:
            _write(samples_path, info, samples)
    elif name in {"auto", "nvml"}:
        info, samples, done, sensor_s = _real(samples_path, say, wave_s)
    else:
        raise UserError(f"square wave: meter {request!r} has no card; use nvml, or simulated:SCENARIO")
    return Experiment(
        basis=info.basis,
        source=info.source,
        findings=analyse(info, samples, done, sensor_s),
        stretches=tuple(done),
        samples=str(samples_path) if samples_path is not None else "",
    )


def _plan(sensor_s: float, wave_s: float | None) -> list[Stretch]:
    wanted = sorted({*periods(sensor_s), transition_period_s(sensor_s)})
    return schedule(wanted, sensor_s) if wave_s is None else schedule(wanted, sensor_s, wave_s)


def _write(path: Path, info: MeterInfo, samples: Sequence[Sample]) -> None:
    try:
        write(path, info, samples)
    except OSError as error:
        raise UserError(f"{path}: the raw samples can't be written ({error.strerror or error})") from error


def _simulated(scenario: Path, wave_s: float | None) -> tuple[MeterInfo, tuple[Sample, ...], list[Done], float]:
    from harness.meter.simulated.scenario import load_scenario

    loaded = load_scenario(scenario)
    sensor_s = loaded.cards[0].sensor.period_s
    info, samples, done = simulate(loaded, _plan(sensor_s, wave_s), sample_hz=SAMPLE_HZ)
    source = f"simulation {scenario.stem}: {info.source}"
    return info.model_copy(update={"source": source}), samples, done, sensor_s


def _real(
    samples_path: Path | None, say: Callable[[str], None], wave_s: float | None
) -> tuple[MeterInfo, tuple[Sample, ...], list[Done], float]:
    lacking = METERS.get("nvml").available()
    if lacking:
        raise UserError(f"square wave: needs an NVIDIA card: {lacking}; {FALLBACK}")
    with tempfile.TemporaryDirectory(prefix="harness-square-wave-") as folder:
        kept = samples_path or Path(folder) / "square-wave.samples"
        if kept.exists():
            raise UserError(f"{kept}: exists already; raw samples are never overwritten, choose another -o")
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            with Sampler("nvml", {}, SAMPLE_HZ) as sampler:
                calibration = sampler.calibrate(None, Path(folder) / "calibration.samples")
                seen = [c.period_s for c in calibration.channels if c.channel.endswith("/power")] if calibration else []
                sensor_s = next((period for period in seen if period is not None), UPDATE_PERIOD_S)
                plan = _plan(sensor_s, wave_s)
                say(f"square wave: about {sum(s.seconds + s.offset_s for s in plan):.0f} s of load on the card")
                done = _loaded(plan, sampler, kept, say)
        except SamplerError as error:
            raise UserError(f"square wave: the sampling failed: {error}") from error
        recording = read(kept)
        return recording.info, recording.samples, done, sensor_s


def _loaded(plan: Sequence[Stretch], sampler: Sampler, kept: Path, say: Callable[[str], None]) -> list[Done]:
    """Load the card in a process of its own while it is sampled."""
    worker = subprocess.Popen(
        [sys.executable, "-m", "harness.doctor.square_wave.load_torch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(json.dumps([stretch.model_dump(mode="json") for stretch in plan]) + "\n")
        worker.stdin.flush()
        ready = _line(worker)
        if "uuid" not in ready:
            raise UserError(f"square wave: the card can't be loaded: {ready.get('failed', 'torch died')}; {FALLBACK}")
        sampler.start(worker.pid, ready["uuid"], kept)
        worker.stdin.write("go\n")
        worker.stdin.flush()
        done = []
        for number, stretch in enumerate(plan, start=1):
            told = _line(worker)
            if "stretch" not in told:
                raise UserError("square wave: the process that loads the card died; its message is above")
            done.append(Done.model_validate(told))
            what = f"wave of {stretch.period_s * 1e3:g} ms" if stretch.period_s else stretch.kind
            say(f"[{number}/{len(plan)}] {what}")
        sampler.stop()
        return done
    finally:
        if worker.poll() is None:
            worker.kill()
        worker.communicate()


def _line(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    text = worker.stdout.readline()
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
