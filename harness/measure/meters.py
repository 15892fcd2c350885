"""Which meters watch a command, and one meter's life over all runs of one ``measure``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.measure.cards import cards_of
from harness.measure.types import MeterPlan, MeterRun, Window
from harness.meter.base import METERS, Quantity
from harness.meter.choose import AUTO, choose
from harness.meter.sampler import Sampler, SamplerError
from harness.record.ledger import sha256_of
from harness.record.record import SamplesFile
from harness.types import UserError


def plan_meters(
    requests: Sequence[str], devices: Sequence[str], environment: Mapping[str, str]
) -> tuple[MeterPlan, ...]:
    """The meters for what was asked, in its order.

    ``auto``, and nothing, is the card's meter where the command can use a card and the CPU's meter beside it: a
    command may use both, and their energies are never added.

    Raises:
        UserError: a meter that is unknown, lacking, asked for twice, or none at all.
    """
    plans: list[MeterPlan] = []
    for request in requests or (AUTO,):
        plans += _auto(devices, environment) if request == AUTO else [_asked(request, devices, environment)]
    seen: dict[str, int] = {}
    named: list[MeterPlan] = []
    for plan in plans:
        if any(plan.name == other.name and plan.options == other.options for other in named):
            raise UserError(f"meter {plan.name!r} was asked for twice")
        seen[plan.name] = seen.get(plan.name, 0) + 1
        label = plan.name if seen[plan.name] == 1 else f"{plan.name}-{seen[plan.name]}"
        named.append(plan.model_copy(update={"label": label}))
    return tuple(named)


def _auto(devices: Sequence[str], environment: Mapping[str, str]) -> list[MeterPlan]:
    plans: list[MeterPlan] = []
    cards = _cards(devices, environment)
    if cards:
        name, options, why = choose(AUTO, "cuda")
        plans.append(MeterPlan(label=name, name=name, options=options, device=cards, why=why, asked=bool(devices)))
    try:
        name, options, why = choose(AUTO, "cpu")
        plans.append(MeterPlan(label=name, name=name, options=options, why=why, asked=False))
    except UserError:
        if not plans:
            raise
    return plans


def _asked(request: str, devices: Sequence[str], environment: Mapping[str, str]) -> MeterPlan:
    covers = METERS.get(request.partition(":")[0]).covers
    name, options, why = choose(request, "cuda" if "cuda" in covers else "cpu")
    cards = _cards(devices, environment) if covers == {"cuda"} else None
    if cards == "":
        raise UserError(
            f"meter {name!r}: CUDA_VISIBLE_DEVICES={environment.get('CUDA_VISIBLE_DEVICES')} leaves no card to be "
            "metered; name one by --device UUID"
        )
    return MeterPlan(label=name, name=name, options=options, device=cards, why=why, asked=True)


def _cards(devices: Sequence[str], environment: Mapping[str, str]) -> str:
    """Comma-separated UUIDs of the cards asked for, else of those the command can use; none is an empty text."""
    if devices:
        return ",".join(devices)
    if METERS.get("nvml").available() is not None:
        return ""
    import pynvml

    return ",".join(cards_of(environment, pynvml))


class Metering:
    """One meter: its sampler, and what went wrong with it. What goes wrong in a run is kept, not raised."""

    def __init__(self, plan: MeterPlan, sample_hz: float, folder: Path) -> None:
        self.plan = plan
        self.folder = folder  # of all samples files; paths in records are relative to its parent
        self._sampler = Sampler(plan.name, plan.options, sample_hz)
        self._path: Path | None = None
        self._running = False
        self._problem = ""
        self.margin_s = 0.0  # to be read so long before and after a window, for the refreshes next to its edges

    def open(self) -> None:
        """Start the sampler's process."""
        self._sampler.open()

    def close(self) -> None:
        """End it."""
        self._sampler.close()

    def calibrate(self) -> str:
        """Poll the meter until it shows its refresh; what could not be done, or nothing."""
        if not METERS.get(self.plan.name).calibrates:
            return ""
        path = self._fresh("calibration")
        try:
            self._sampler.calibrate(self.plan.device, path)
        except UserError as error:
            if self.plan.asked:
                raise
            return f"{self.plan.label}: not calibrated: {error}"
        except SamplerError as error:
            return f"{self.plan.label}: not calibrated: {error}"
        return ""

    def begin_idle(self, key: str) -> bool:
        """Begin to watch the device at rest; whether there is a rest to see.

        A model by the CPU seconds of a process tree has none: it is net of idle by design. Of a meter that can't
        be started the run that follows says why.
        """
        self._path = self._fresh(f"{key}.idle")
        try:
            info = self._sampler.start(None, self.plan.device, path=self._path)
            self._running, self.margin_s = True, info.margin_s
        except (SamplerError, UserError):
            return False
        if any(channel.quantity is Quantity.CPU_S for channel in info.channels):
            self.stop()
            self._path.unlink(missing_ok=True)
            return False
        return True

    def end_idle(self, start_ns: int, end_ns: int) -> Window | None:
        """End it; ``None`` if the meter failed meanwhile."""
        left = self.stop()
        if left.problem or left.samples is None:
            return None
        return Window(samples=left.samples, start_ns=start_ns, end_ns=end_ns)

    def temperature_c(self) -> float | None:
        """The hottest sensor of its device now; ``None`` where it has none."""
        from harness.run.cooldown import temperature_c

        return temperature_c(self._sampler, self.plan.device, self.folder / f"cooldown.{self.plan.label}.samples")

    def start(self, key: str, pid: int, arm: str) -> None:
        """Begin; the first sample is taken before this returns.

        Raises:
            UserError: a meter that was asked for by name can't be opened.
        """
        self._path = self._fresh(key)
        options = {"arm": arm} if METERS.get(self.plan.name).by_arm else {}
        try:
            info = self._sampler.start(pid, self.plan.device, path=self._path, options=options)
            self._running, self.margin_s = True, info.margin_s
        except UserError as error:
            if self.plan.asked:
                raise
            self._problem = f"the meter could not be started: {error}"
        except SamplerError as error:
            self._problem = f"the meter could not be started: {error}"

    def stop(self, idle: Window | None = None) -> MeterRun:
        """End, with one last sample; what the run left."""
        problem, self._problem = self._problem, ""
        count, share = 0, None
        if self._running:
            self._running = False
            try:
                sampled = self._sampler.stop()
                count, share = sampled.count, sampled.cpu_share
            except SamplerError as error:
                problem = str(error)
        samples = None
        if self._path is not None and self._path.exists():
            samples = self._file(self._path, count)
        return MeterRun(meter=self.plan.label, samples=samples, idle=idle, problem=problem, cpu_share=share)

    def _fresh(self, key: str) -> Path:
        """A path for a new file; one left by a run that was killed is in nobody's record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{key}.{self.plan.label}.samples"
        path.unlink(missing_ok=True)
        return path

    def _file(self, path: Path, count: int) -> SamplesFile:
        return SamplesFile(path=path.relative_to(self.folder.parent).as_posix(), sha256=sha256_of(path), count=count)
