"""Planted faults: each ends in a recorded status, with no wrong joule and never a zero.

The table says what a fault is and what must come of it: ``OK`` (the energy is good, its stated 95 % covers the
truth), or ``INVALID`` with words that name the fault. Whatever the status, joules that are there are either
covered by their uncertainty or belong to a run that is not believed.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from faulty_runs import LOAD, NS, STEPS, STOP_S, Run, card, metered, record_of
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.judge.gates import unlike
from harness.meter import sampler as sampler_module
from harness.meter.base import Sample
from harness.meter.nvml import NvmlMeter
from harness.meter.rapl import RaplMeter
from harness.meter.sampler import Sampler
from harness.meter.samples import write
from harness.meter.simulated.load import Load
from harness.meter.simulated.nvml import SimulatedNvml
from harness.meter.simulated.play import play
from harness.meter.simulated.scenario import Counter, Fault, FaultKind, Scenario
from harness.record.record import Record, Status
from harness.run.watch import Metering
from harness.types import Basis, UserError

BOTH = ("energy", "power")
ALL = ("energy", "power", "power_mean")


def fault(kind: str, from_s: float = 0.0, until_s: float | None = None, of=None, value=None) -> Fault:
    chosen = {"readings": of} if of else {}
    return Fault(kind=FaultKind(kind), from_s=from_s, until_s=until_s, value=value, **chosen)


@dataclass(frozen=True)
class Planted:
    """A fault and what must come of it."""

    name: str
    faults: tuple[Fault, ...]
    says: str = ""  # in the reason of an invalid run; empty: the run is OK
    notes: str = ""  # in the energy's reason, the meter's assumptions or the warnings of a run that is OK
    cards: int = 1
    fields: dict = field(default_factory=dict)  # of the first card

    def run(self) -> Run:
        """The first card has the faults, the others are sound."""
        return metered(card(*self.faults, **self.fields), *(card(load_scale=0.8) for _ in range(self.cards - 1)))


SENSOR = Counter(of="sensor")
TRUE = Counter(of="power", period_s=0.05)

FAULTS = [
    Planted("nothing at all", ()),
    Planted("dropout of 0.2 s", (fault("missing", 9, 9.2),)),
    Planted("dropout of 3 s", (fault("missing", 9, 12),), "only 8[67].*% of the measured time was observed"),
    Planted("dropout at the start of the window", (fault("missing", 1, 4),), "was observed"),
    Planted("dropout to the end", (fault("missing", 20),), "was observed"),
    Planted("instant power unsupported", (fault("unsupported", of=("power",)),), notes=r"no field for power \("),
    Planted("counter unsupported", (fault("unsupported", of=("energy",)),), notes="no field for energy"),
    Planted("only mean power", (fault("unsupported", of=BOTH),), notes="no field for"),
    Planted("nothing supported", (fault("unsupported", of=ALL),), "gives neither energy nor power"),
    Planted("permission denied", (fault("denied", of=ALL),), "neither energy nor power.*may not read them"),
    Planted("permission taken away in mid-run", (fault("denied", 10),), "was observed"),
    Planted("card lost in mid-run", (fault("lost", 10),), "GPU-.* was lost while it was measured"),
    Planted("card lost and back", (fault("lost", 10, 10.2),), "was lost while it was measured"),
    Planted("counter reset", (fault("reset", 10),), "the counter was reset"),
    Planted("counter reset, counter of its own", (fault("reset", 10),), "was reset", fields={"counter": TRUE}),
    Planted("counter jumps up", (fault("jump", 10, value=50_000.0),), "fell or jumped"),
    Planted("counter jumps by 5 kJ", (fault("jump", 10, value=5_000.0),), "fell or jumped"),
    Planted("counter jumps back", (fault("jump", 10, value=-5_000.0),), "fell or jumped"),
    Planted("instant power frozen", (fault("frozen", 6, of=("power",)),), notes="stood still|can't be"),
    Planted("counter frozen", (fault("frozen", 6, of=("energy",)),), notes="energy stood still"),
    Planted("counter frozen for 3 s", (fault("frozen", 6, 9, of=("energy",)),), notes="energy stood still"),
    Planted("all readings frozen", (fault("frozen", 6, of=ALL),), "stood still|was observed"),
    Planted("all bits set: power", (fault("not_available", 6, of=("power",)),)),
    Planted("all bits set: counter", (fault("not_available", 6, of=("energy",)),), notes="power stands in"),
    Planted("all bits set: everything", (fault("not_available", 6),), "was observed"),
    Planted("0 W in mid-run", (fault("zero", 6, 12, of=("power",)),)),
    Planted("0 W always", (fault("zero", of=("power", "power_mean")),)),
    Planted("counter says 0", (fault("zero", 6, of=("energy",)),), "the counter was reset"),
    Planted("counter says 0 always", (fault("zero", of=("energy",)),), notes="energy"),
    Planted("sensor failed, so 0 J", (fault("zero", of=ALL),), "reads nothing"),
    Planted("sensor fails in mid-run, 0 from then on", (fault("zero", 6, of=ALL),), "reset"),
    Planted("0 W, and no counter", (fault("unsupported", of=("energy",)), fault("zero", of=ALL[1:])), "reads nothing"),
    Planted(
        "0 W in mid-run, and no counter",
        (fault("unsupported", of=("energy",)), fault("zero", 6, 12, of=ALL[1:])),
        "was observed",
    ),
    Planted(
        "power frozen, and no counter",
        (fault("unsupported", of=("energy",)), fault("frozen", 6, of=ALL[1:])),
        "power stood still while the device is at work and no counter confirms it",
    ),
    Planted("negative power", (fault("negative", 6, of=("power",)),)),
    Planted("negative counter", (fault("negative", 6, of=("energy",)),), notes="power stands in"),
    Planted("negative everything", (fault("negative", 6),), "was observed"),
    Planted("a foreign process", (fault("foreign", 8, 12, value=1),), "shared with 1 foreign process"),
    Planted(
        "power limit changed", (fault("power_limit", 8, value=400.0),), r"power limit of GPU-.* changed \(400 to 700"
    ),
    Planted("driver's clock steps forward", (fault("clock_step", 8, value=3.0),)),
    Planted("driver's clock steps back", (fault("clock_step", 8, value=-3600.0),)),
    Planted("driver's clock wrong for a while", (fault("clock_step", 8, 9, value=0.4),)),
    Planted("slow reads", (fault("slow", 8, value=0.02),)),
    Planted("reads that take a second", (fault("slow", 8, value=0.5),), "was observed"),
    Planted("library breaks down", (fault("crash", 8),), "RuntimeError: the simulated driver's library broke down"),
    Planted("MIG instance", (), notes="MIG instances: readings are those of the whole board", fields={"mig": True}),
    Planted("vGPU without readings", (fault("unsupported", of=ALL),), "a virtual GPU", fields={"vgpu": True}),
    Planted("one of 8 cards lost", (fault("lost", 10),), "GPU-.* was lost while it was measured", cards=8),
    Planted("one of 8 cards silent", (fault("missing", 10),), "was observed", cards=8),
    Planted("one of 8 cards reads 0", (fault("zero", of=ALL),), "reads nothing", cards=8),
]


def believed_joules_are_right(run: Run) -> None:
    """No wrong joule and no zero: of the run if it is OK, of its windows whatever it is."""
    energy = run.record.energy
    for one in (energy, *(window.energy for window in run.record.windows)):
        assert one is None or one.joules is None or one.joules > 0
    if run.record.ok:
        assert energy is not None
        assert energy.joules is not None
        assert energy.joules == pytest.approx(run.truth_j, abs=energy.expanded_j)


@pytest.mark.parametrize("planted", FAULTS, ids=lambda planted: planted.name)
def test_a_planted_fault_ends_in_a_recorded_status_and_no_wrong_joule(planted):
    run = planted.run()
    believed_joules_are_right(run)
    if planted.says:
        assert run.record.status is Status.INVALID
        assert re.search(planted.says, run.record.reason), run.record.reason
    else:
        assert run.record.status is Status.OK, run.record.reason
        said = [run.record.energy.reason, *run.record.meter.assumptions, *run.record.warnings]
        assert re.search(planted.notes, "\n".join(said))


# The rest of the table: faults of the sampler's process, its file, the wrong card, RAPL, and the training itself.


@pytest.fixture(scope="module")
def scenario(tmp_path_factory):
    """One card under the usual load, as a file for the sampler's own process."""

    def write(*faults: Fault) -> dict[str, str]:
        path = tmp_path_factory.mktemp("scenario") / "card.yaml"
        cards = [card(*faults).model_dump(mode="json", exclude_unset=True)]
        path.write_text(yaml.safe_dump({"load": LOAD.model_dump(mode="json", exclude_none=True), "cards": cards}))
        return {"scenario": str(path)}

    return write


def sampled_run(
    folder: Path, options: dict[str, str], harm: Callable[[Sampler], None] = lambda _: None, device: str = "cpu"
) -> Record:
    """A short run under the real sampler's process, to which something is done in the middle."""
    folder.mkdir(exist_ok=True)
    with Sampler("simulated", options, 50.0) as sampler:
        metering = Metering(sampler, folder / "run.samples")
        metering.start(os.getpid(), device, {})
        start_ns = time.monotonic_ns()
        time.sleep(0.4)
        harm(sampler)
        time.sleep(0.4)
        end_ns = time.monotonic_ns()
        metering.stop()
    samples = metering.samples()
    return record_of(metering.info, tuple(samples), [(start_ns, end_ns, 6)], problem=metering.problem)


def full_disk(sampler: Sampler) -> None:
    assert sampler.pid is not None
    resource.prlimit(sampler.pid, resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda sampler: os.kill(sampler.pid, signal.SIGKILL), "the sampler died .killed by signal 9."),
        (lambda sampler: os.kill(sampler.pid, signal.SIGSTOP), "the sampler did not answer 'stop' within"),
        (full_disk, "File too large|No space left|samples file"),
    ],
    ids=["killed", "hung", "disk full"],
)
def test_what_befalls_the_sampler_is_the_reason_of_an_invalid_run(scenario, tmp_path, monkeypatch, harm, says):
    monkeypatch.setattr(sampler_module, "STOP_TIMEOUT_S", 0.5)
    record = sampled_run(tmp_path / "run", scenario(), harm)
    assert record.status is Status.INVALID
    assert re.search(says, record.reason), record.reason
    assert record.energy is None or record.energy.joules != 0


def test_a_library_that_breaks_down_in_the_sampler_is_the_reason(scenario, tmp_path):
    record = sampled_run(tmp_path / "run", scenario(fault("crash", 0.3)))
    assert record.status is Status.INVALID
    assert "sampling failed: RuntimeError: the simulated driver's library broke down" in record.reason


def test_a_samples_file_that_is_cut_or_overwritten_is_named(scenario, tmp_path):
    def of(content: bytes) -> Record:
        path.write_bytes(content)
        metering = Metering(Sampler("simulated", {}, 20.0), path)
        metering.info = played.info
        samples = metering.samples()
        return record_of(metering.info, tuple(samples), spans, problem=metering.problem)

    path = tmp_path / "run.samples"
    played = play(Scenario(load=LOAD, cards=(card(),)), 30)
    spans = [(played.start_ns + 2 * NS, played.start_ns + 26 * NS, STEPS)]
    write(path, played.info, played.samples)
    whole = path.read_bytes()
    assert of(whole).ok
    for broken in (whole[: len(whole) * 2 // 3], whole[:-4], b"", b"what is this?"):
        record = of(broken)
        assert record.status is Status.INVALID
        assert "run.samples" in record.reason
        assert record.energy is None or record.energy.joules != 0


def test_a_card_that_is_not_there_is_told_with_those_that_are():
    with pytest.raises(UserError, match=r"knows no card GPU-other; it sees GPU-SIMULATED"):
        NvmlMeter(nvml=SimulatedNvml(Scenario(cards=(card(),)))).open(None, "GPU-other")


def test_a_run_metered_on_another_card_than_it_trained_on_is_invalid():
    played = play(Scenario(load=LOAD, cards=(card(),)), 30)
    spans = [(played.start_ns + 2 * NS, played.start_ns + 26 * NS, STEPS)]
    real = played.info.model_copy(update={"basis": Basis.MEASURED})
    record = record_of(real, played.samples, spans, device="GPU-trained-here")
    assert record.status is Status.INVALID
    assert re.search(r"trained on GPU-trained-here, metered on GPU-SIMULATED", record.reason)
    own = real.channels[0].device
    assert record_of(real, played.samples, spans, device=own).ok
    assert record_of(real, played.samples, spans, device=own.removeprefix("GPU-")).ok
    assert record_of(played.info, played.samples, spans, device="GPU-trained-here").ok  # a simulation stands for any


def rapl_samples(folder: Path, meter: RaplMeter, watts: float, wrap_at_j: float) -> list[Sample]:
    """A package read 20 times a second for 10 s; its counter starts again at ``wrap_at_j``."""
    samples = []
    for i in range(201):
        (folder / "intel-rapl:0" / "energy_uj").write_text(f"{round((50 + watts * i / 20) % wrap_at_j * 1e6)}\n")
        samples += [Sample(s.channel, NS + i * NS // 20, s.status, s.value) for s in meter.read() if s.channel == 0]
    return samples


@pytest.mark.parametrize("has_range", [True, False])
def test_rapl_wraps_are_mended_with_a_range_and_missing_without(tmp_path, has_range):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("50000000\n")
    if has_range:
        (package / "max_energy_range_uj").write_text("200000000\n")
    meter = RaplMeter(tmp_path)
    info = meter.open(None, None).model_copy(update={"sample_hz": 20.0, "update_period_s": 1e-3})
    samples = rapl_samples(tmp_path, meter, watts=60.0, wrap_at_j=200.0)
    meter.close()
    record = record_of(info, tuple(samples), [(2 * NS, 10 * NS, 50)])
    if has_range:
        assert record.ok, record.reason
        assert record.energy.joules == pytest.approx(480, abs=record.energy.expanded_j)
    else:
        assert record.status is Status.INVALID
        assert "package-0" in record.reason
        assert "fell or jumped" in record.reason


def test_rapl_without_permission_is_a_recorded_problem_with_its_remedy(tmp_path, monkeypatch):
    def refuse(path: Path, *args, **kwargs) -> str:
        if path.name == "energy_uj":
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_text(path, *args, **kwargs)

    read_text = Path.read_text  # root, who runs tests too, may read all
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "energy_uj").write_text("5\n")
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(UserError) as raised:
        RaplMeter(tmp_path).open(None, None)
    record = record_of(None, (), [(NS, 2 * NS, 5)], problem=f"the meter could not be started: {raised.value}")
    assert record.status is Status.INVALID
    assert "may not be read by this user. Grant it: sudo chmod a+r" in record.reason
    assert record.energy is None


def test_a_training_that_is_killed_leaves_its_energy_as_wasted_not_as_the_run_s():
    run = metered(card(), status=Status.FAILED, reason="killed by signal 9")
    assert run.record.status is Status.FAILED
    assert not run.record.ok
    assert run.record.reason == "killed by signal 9"
    assert run.record.energy.seconds == pytest.approx(STOP_S, rel=0.01)  # all that was seen, not the windows
    assert run.record.energy.joules > run.truth_j


def test_throttling_in_one_arm_only_makes_the_pair_unlike():
    cool, hot = metered(card()).record, metered(card(fault("throttle", 6, 16))).record
    blind = metered(card(fault("unsupported", of=("throttle",)))).record
    assert cool.ok
    assert hot.ok  # by itself no fault: said, and compared
    assert any("clocks were held back for 41" in warning for warning in hot.warnings)
    seconds, names = (24.0, 24.0), ("dense", "sat")
    assert unlike(cool.conditions, cool.conditions, seconds, names) == []
    assert unlike(hot.conditions, hot.conditions, seconds, names) == []
    (differs, *_) = unlike(cool.conditions, hot.conditions, seconds, names)
    assert "throttling differs" in differs
    assert any(
        "was read in dense, not in sat" in why for why in unlike(cool.conditions, blind.conditions, seconds, names)
    )
    assert any(
        "was read in sat, not in dense" in why for why in unlike(blind.conditions, cool.conditions, seconds, names)
    )


# Kinds that spoil single readings and may last; the truth stays what it was.
SPOILING = ("missing", "denied", "not_available", "zero", "negative", "frozen", "unsupported")


@settings(max_examples=40, deadline=None)
@given(
    faults=st.lists(
        st.tuples(
            st.sampled_from(SPOILING),
            st.sampled_from([("energy",), ("power",), BOTH, ALL]),
            st.floats(0, 25),
            st.floats(0.05, 20),
        ),
        min_size=1,
        max_size=3,
    ),
    level=st.sampled_from([None, 2.0, 0.5]),
)
def test_whatever_goes_wrong_together_no_believed_joule_is_wrong(faults, level):
    """``level`` is how much more the card draws from the middle of the run on, so that a stuck reading can't be right
    by luck; ``None``: as much as before."""
    load = LOAD if level is None else Load(curve=((0.0, 500.0), (13.0, 500.0 * level)))
    planted = tuple(fault(kind, from_s, from_s + length_s, of) for kind, of, from_s, length_s in faults)
    believed_joules_are_right(metered(card(*planted), load=load))
