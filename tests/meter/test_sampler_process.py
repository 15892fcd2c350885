"""The sampler as a process: what happens to it, and what is said about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.meter.base import Meter, MeterInfo, Quantity, ReadStatus, Sample
from harness.meter.energy import energy_of
from harness.meter.live import Tally
from harness.meter.sampler import Sampler, SamplerError
from harness.meter.samples import read
from harness.meter.sampling_process import Session
from harness.types import UserError

NS = 1_000_000_000


@pytest.fixture(scope="module")
def sampler(tmp_path_factory):
    scenario = tmp_path_factory.mktemp("simulated") / "scenario.yaml"
    card = {"sensor": {"period_s": 0.02, "window_s": 0.02}}
    scenario.write_text(json.dumps({"load": {"power_w": 100}, "arms": {"sat": {"power_w": 40}}, "cards": [card]}))
    with Sampler("simulated", {"scenario": str(scenario)}, 50.0) as one:
        yield one


def busy(seconds: float) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass"])


def wait_for(condition, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_process_serves_run_after_run(sampler, tmp_path):
    pid, joules = sampler.pid, {}
    for arm in ("dense", "sat"):
        path = tmp_path / arm
        info = sampler.start(None, None, path, options={"arm": arm})
        start = time.monotonic_ns()
        time.sleep(0.4)
        end = time.monotonic_ns()
        done = sampler.stop()
        recording = read(path)
        assert (recording.torn, recording.info) == ("", info)
        assert done.path == path
        assert done.count == len(recording.samples) >= 2 * 15
        assert info.sample_hz == 50.0
        joules[arm] = energy_of(info, recording.samples, start, end)
        assert joules[arm].coverage == 1.0
        watts = {"dense": 100, "sat": 40}[arm]
        step_j = watts * 0.02  # of the counter
        assert joules[arm].joules == pytest.approx(watts * (end - start) / NS, abs=step_j)
    assert sampler.pid == pid


def test_the_live_line_knows_power_and_joules(sampler, tmp_path):
    assert sampler.peek().joules is None
    sampler.start(None, None, tmp_path / "s")
    began = time.monotonic()
    wait_for(lambda: (sampler.peek().joules or 0) > 20)
    live = sampler.peek()
    assert live.power_w == pytest.approx(100, rel=0.01)
    assert live.joules <= 100 * (time.monotonic() - began) + 1
    sampler.stop()


def test_samples_are_never_overwritten_and_a_path_is_needed(sampler, tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="never overwritten"):
        sampler.start(None, None, tmp_path / "s")
    with pytest.raises(ValueError, match="no path"):
        sampler.start(None, None)
    with pytest.raises(SamplerError, match="FileNotFoundError"):
        sampler.start(None, None, tmp_path / "no" / "folder")
    with pytest.raises(RuntimeError, match="nothing is being sampled"):
        sampler.stop()
    sampler.start(None, None, tmp_path / "t")
    with pytest.raises(RuntimeError, match="stop\\(\\) comes first"):
        sampler.start(None, None, tmp_path / "u")
    sampler.stop()


def test_a_meter_that_can_not_be_opened_says_why(tmp_path):
    with Sampler("modelled", {}, 20.0, tmp_path / "s") as one:
        with pytest.raises(UserError, match="there is no process 4194301"):
            one.start(4_194_301, None)
        with pytest.raises(UserError, match="unexpected keyword argument 'volts'"):
            one.start(None, None, options={"volts": 3})
        one.start(os.getpid(), None)  # and it still works
        assert one.stop().count > 0
    with Sampler("nmvl", {}, 20.0, tmp_path / "t") as one, pytest.raises(UserError, match="did you mean 'nvml'"):
        one.start(None, None)


def test_a_sampler_that_dies_is_reported_and_replaced(tmp_path, sampler):
    sampler.start(None, None, tmp_path / "s")
    time.sleep(0.1)
    os.kill(sampler.pid, signal.SIGKILL)
    with pytest.raises(SamplerError, match=r"the sampler died \(killed by signal 9\)"):
        sampler.stop()
    assert read(tmp_path / "s").torn  # readable, and never taken for whole
    sampler.start(None, None, tmp_path / "t")
    assert sampler.stop().count > 0


def test_a_sampler_that_hangs_is_reported(tmp_path, sampler, monkeypatch):
    monkeypatch.setattr("harness.meter.sampler.STOP_TIMEOUT_S", 0.2)
    sampler.start(None, None, tmp_path / "s")
    os.kill(sampler.pid, signal.SIGSTOP)
    assert sampler.peek().joules is None
    with pytest.raises(SamplerError, match=r"did not answer 'stop' within 0\.2 s"):
        sampler.stop()
    assert sampler.pid is None


def test_a_killed_worker_does_not_take_the_sampler_along(tmp_path):
    worker = busy(60)
    with Sampler("modelled", {}, 50.0) as one:
        one.start(worker.pid, None, tmp_path / "s")
        time.sleep(0.3)
        worker.kill()  # as the kernel does when memory runs out
        worker.wait()
        time.sleep(0.2)
        one.stop()
    samples = read(tmp_path / "s").samples
    good = [s for s in samples if s.status is ReadStatus.OK]
    assert len(good) > 5
    assert good[-1].value > 0.05
    assert samples[-1].status is ReadStatus.LOST
    assert samples[-1].value is None


def test_interrupt_leaves_it_to_the_parent(tmp_path, sampler):
    sampler.start(None, None, tmp_path / "s")
    assert os.getpgid(sampler.pid) != os.getpgid(0)  # ^C of the terminal does not reach it
    os.kill(sampler.pid, signal.SIGINT)  # nor would it matter
    time.sleep(0.1)
    sampler.stop()
    assert read(tmp_path / "s").torn == ""


def test_terminated_or_orphaned_it_leaves_a_whole_file(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom harness.meter.sampler import Sampler\n"
        "s = Sampler('modelled', {}, 50.0)\ns.start(None, None, Path(sys.argv[1]))\nprint(s.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    for number, end in enumerate(("parent", "sampler")):
        path = tmp_path / str(number)
        parent = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        pid = int(parent.stdout.readline())
        time.sleep(0.1)
        if end == "parent":
            parent.kill()
        else:
            os.kill(pid, signal.SIGTERM)
        wait_for(lambda path=path: path.exists() and read(path).torn == "")
        parent.kill()
        parent.communicate()
        wait_for(lambda pid=pid: not running(pid))


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_it_imports_nothing_heavy(tmp_path):
    with Sampler("modelled", {}, 20.0) as one:
        one.start(os.getpid(), None, tmp_path / "s")
        mapped = Path(f"/proc/{one.pid}/maps").read_text()
        one.stop()
    assert "python" in mapped
    assert not [name for name in ("torch", "numpy", "scipy", "pandas") if f"/{name}/" in mapped]


class Flaky(Meter):
    """Fails at its third read."""

    name = "flaky"

    def __init__(self) -> None:
        self.reads = 0
        self.closed = False

    @classmethod
    def available(cls) -> str | None:
        return None

    def open(self, pid: int | None, device: str | None) -> MeterInfo:
        from meter_samples import channel, info

        return info(channel(Quantity.POWER_W))

    def read(self) -> list[Sample]:
        self.reads += 1
        if self.reads == 3:
            raise RuntimeError("the wire came off")
        return [Sample(0, self.reads * 1000, ReadStatus.OK, 5.0)]

    def close(self) -> None:
        self.closed = True


def test_a_meter_that_raises_ends_the_sampling_and_is_reported(tmp_path):
    meter = Flaky()
    session = Session(meter, 20.0, None, None, tmp_path / "s")
    session.sample()
    assert session.wait_s() is not None
    session.sample()
    assert session.wait_s() is None
    session.sample()
    end = session.finish()
    assert end["error"] == "sampling failed: RuntimeError: the wire came off"
    assert end["count"] == 2
    assert meter.closed
    assert len(read(tmp_path / "s").samples) == 2


def test_a_late_sample_is_not_made_up_for_by_a_burst(tmp_path):
    session = Session(Flaky(), 100.0, None, None, tmp_path / "s")
    time.sleep(0.055)
    session.sample()
    assert 0 < session.wait_s() <= 0.01
    session.finish()


def test_the_tally_mends_wraps_and_skips_resets():
    from meter_samples import channel, info, ok

    for wrap_at, total in ((1000.0, 150.0), (None, 100.0)):
        tally = Tally(info(channel(Quantity.POWER_W), channel(Quantity.ENERGY_J, wrap_at=wrap_at)))
        for second, value in enumerate([850, 900, 950, 0]):
            tally.feed([ok(0, second * NS, 9e9), ok(1, second * NS, value)])
        assert tally.live().joules == total
