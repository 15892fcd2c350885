"""One command under a meter of its process tree: complete CPU time, honest exit codes, nothing before its time."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tiny_commands import busy, python

from harness.measure.command import Streams, refusal
from harness.measure.figures import figures_of
from harness.measure.meters import Metering
from harness.measure.once import Task, run
from harness.measure.signals import InterruptedBySignalError, Signals
from harness.measure.store import Folder
from harness.measure.types import MeterPlan, Plan
from harness.meter.samples import read
from harness.types import UserError

MODELLED = MeterPlan(label="modelled", name="modelled", options={"watts_per_core": 10.0}, why="", asked=True)
PLAN = Plan(
    kind="once", argv={}, directory="", meters=(MODELLED,), machine={}, sample_hz=20.0, idle_s=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def metering(tmp_path_factory):
    one = Metering(MODELLED, 20.0, tmp_path_factory.mktemp("measure") / "samples")
    one.open()
    yield one
    one.close()


@pytest.fixture
def once(metering, tmp_path):
    """``once(argv)``: the run and its figure; output goes nowhere."""
    numbers = iter(range(1000))

    def call(argv, *, meters=(metering,), while_it_runs=lambda pid: None):
        task = Task(f"{tmp_path.name}-{next(numbers)}", "a", argv)
        with open(os.devnull, "r+b") as nothing, Signals() as signals:
            quiet = Streams(*[nothing.fileno()] * 3)
            task = Task(task.key, "a", argv, streams=quiet)
            made = run(task, meters, [], signals, started=while_it_runs)
        figures = figures_of(PLAN, made, Folder(metering.folder.parent).recordings([made])).figures
        return made, figures[0] if figures else None

    return call


TREES = {
    "one process": busy(0.3),
    "children": ["sh", "-c", '"$0" "$@"; "$0" "$@"', *busy(0.15)],
    "side by side": ["sh", "-c", '"$0" "$@" & "$0" "$@"; wait', *busy(0.15)],
    "grandchildren": ["sh", "-c", 'sh -c \'"$0" "$@"; true\' "$0" "$@"; true', *busy(0.25)],
    "threads": python(
        "import threading, hashlib\n"
        "def work():\n for _ in range(8): hashlib.sha256(b'x' * 20_000_000).digest()\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]"
    ),
    "many that come and go between two looks": ["sh", "-c", 'for i in 1 2 3 4 5 6; do "$0" "$@"; done', *busy(0.05)],
}


@pytest.mark.parametrize("tree", TREES)
def test_cpu_time_is_that_of_the_whole_tree(once, tree):
    made, figure = once(TREES[tree])
    assert made.exit_code == 0
    assert made.cpu_s > 0.2
    # The kernel's own account of the command and all it waited for; up to 30 ms of it are our fork and ticks.
    assert figure.energy.joules / 10.0 == pytest.approx(made.cpu_s, abs=0.03, rel=0.02)
    assert figure.energy.seconds == made.seconds == (made.end_ns - made.start_ns) / 1e9
    assert figure.energy.coverage == 1.0


def test_the_shortest_command_loses_nothing_at_the_edges(once):
    made, figure = once(busy(0.04))
    assert made.seconds < 1
    assert figure.energy.joules / 10.0 == pytest.approx(made.cpu_s, abs=0.015)
    assert figure.energy.joules / 10.0 > 0.03


def test_the_meter_is_there_before_the_first_instant_and_after_the_last(once, metering):
    made, figure = once(["true"])
    times = [sample.at_ns for sample in read(metering.folder.parent / figure.samples.path).samples]
    assert times[0] <= made.start_ns < made.end_ns <= times[-1]


@pytest.mark.parametrize(
    ("argv", "exit_code", "signal_number"),
    [
        (["true"], 0, None),
        (["sh", "-c", "exit 3"], 3, None),
        (["sh", "-c", "kill -9 $$"], 137, signal.SIGKILL),
        (["sh", "-c", "kill -TERM $$"], 143, signal.SIGTERM),
    ],
)
def test_exit_codes_are_the_commands(once, argv, exit_code, signal_number):
    made, figure = once(argv)
    assert (made.exit_code, made.signal, made.error) == (exit_code, signal_number, "")
    assert figure.energy.known


def test_what_can_not_be_started_says_it_as_a_shell_does(once, tmp_path):
    plain, script = tmp_path / "plain", tmp_path / "script"
    plain.write_text("#!/bin/sh\n")
    script.write_text("echo no interpreter is named\n")
    script.chmod(0o755)
    for argv, code, words in [
        (["no-such-command"], 127, "command not found"),
        ([str(tmp_path / "nothing")], 127, "no such file"),
        ([str(plain)], 126, "permission denied"),
        ([str(tmp_path)], 126, "is a directory"),
        ([str(script)], 126, "--shell"),  # only the exec finds this one
    ]:
        made, figure = once(argv)
        assert (made.exit_code, made.start_ns) == (code, None)
        assert words in made.error
        assert figure is None or figure.energy.joules is None


@given(st.text(alphabet="abintrueps/.", max_size=8).map("/".__add__))
@example("/bin/true")
@example("/bin/")
def test_a_path_is_refused_unless_the_kernel_would_take_it(name):
    told = refusal([name])
    assert (told is None) == (os.path.isfile(name) and os.access(name, os.X_OK))
    assert told is None or told[0] == (126 if os.path.exists(name) else 127)


def test_a_command_does_not_start_if_its_meter_can_not(once, tmp_path):
    marker = tmp_path / "started"
    lost = Metering(
        MeterPlan(label="nvml", name="nvml", device="GPU-no-such-card", why="", asked=True), 20.0, tmp_path / "samples"
    )
    try:
        with pytest.raises(UserError):
            once(["touch", str(marker)], meters=(lost,))
    finally:
        lost.close()
    assert not marker.exists()


def test_a_sampler_that_dies_costs_the_joules_and_not_the_command(once, metering):
    def kill_sampler(pid):
        threading.Timer(0.15, lambda: os.kill(metering._sampler.pid, signal.SIGKILL)).start()

    made, figure = once(["sh", "-c", "sleep 0.5; exit 5"], while_it_runs=kill_sampler)
    assert made.exit_code == 5
    assert figure.energy.joules is None
    assert figure.uncertainty_95_j is None
    assert "killed by signal 9" in figure.energy.reason
    assert figure.invalid == (figure.energy.reason,)
    made, figure = once(["true"])  # and the next run has a new one
    assert figure.energy.known


def test_what_lives_on_is_named_and_is_not_waited_for(once):
    made, figure = once(["sh", "-c", "sleep 7.25 & exec sleep 0.3"])
    assert made.seconds < 5
    assert [survivor.name for survivor in made.survivors] == ["sleep 7.25"]
    assert any("sleep 7.25" in caution for caution in figure.cautions)
    os.kill(made.survivors[0].pid, signal.SIGKILL)


def test_an_orphan_that_ends_disappears_as_under_init(once):
    code = textwrap.dedent("""
        import os, subprocess, sys, time
        pid = int(subprocess.check_output(["sh", "-c", "sleep 0.1 >&- & echo $!"]))
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                sys.exit(0)
            time.sleep(0.02)
        sys.exit(1)
    """)
    made, _ = once([sys.executable, "-c", code])
    assert made.exit_code == 0
    assert made.survivors == ()


def test_signals_between_commands_end_the_measurement_and_are_all_given_back():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with Signals() as signals:
        threading.Timer(0.1, signal.pthread_kill, [threading.main_thread().ident, signal.SIGTERM]).start()
        began = time.monotonic()
        with pytest.raises(InterruptedBySignalError) as ended:
            signals.pause(10)
        assert time.monotonic() - began < 5
    assert ended.value.number == signal.SIGTERM
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
