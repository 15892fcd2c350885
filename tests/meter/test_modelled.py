from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import time

import pytest

from harness.meter.base import ReadStatus
from harness.meter.energy import energy_of
from harness.meter.modelled import (
    WATTS_PER_UNKNOWN_CORE,
    Cpu,
    ModelledCpuMeter,
    cpu_of,
    cpu_table,
    find,
    model_of,
)
from harness.meter.proctree import TreeClock, children_of, cpu_ns, stat_of, tree_of
from harness.types import Basis, UserError

BUSY = "import time\nwhile time.process_time() < {}: pass\n"


def started(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def used_by_children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.fixture
def table():
    return cpu_table()


def test_a_busy_process_is_counted_as_the_kernel_counts_it():
    """Threads, ended ones too, against getrusage of the waited child."""
    code = (
        "import sys, threading\n"
        "import time\n"
        "def spin(s):\n"
        "    while time.thread_time() < s: pass\n"
        "t = threading.Thread(target=spin, args=(0.25,)); t.start(); t.join()\n"
        "spin(0.25)\n"
        "print(flush=True); input()\n"
    )
    before = used_by_children_s()
    child = started(code)
    meter = ModelledCpuMeter()
    info = meter.open(child.pid, None)
    child.stdout.readline()
    time.sleep(0.02)
    [sample] = meter.read()
    child.communicate(b"\n")
    used = used_by_children_s() - before
    # The rest of getrusage is the interpreter's own end, a few ms that come after the sample.
    assert sample.value == pytest.approx(used, rel=0.02, abs=0.015)
    assert sample.value >= 0.5
    assert info.basis is info.channels[0].basis is Basis.MODELLED
    assert "modelled, not measured" in info.assumptions[0]


def test_children_count_while_they_live_and_after_they_ended():
    code = (
        "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {BUSY.format(0.2)!r}])\n"  # waited for
        f"p = subprocess.Popen([sys.executable, '-c', {BUSY.format(0.2) + 'input()'!r}], stdin=subprocess.PIPE)\n"
        "print(flush=True); input(); p.communicate(b'\\n'); print(flush=True); input()\n"
    )
    before = used_by_children_s()
    child = started(code)
    clock = TreeClock(child.pid, rescan=1)
    seen = [clock.read_ns()]
    child.stdout.readline()
    deadline = time.monotonic() + 10
    while clock.read_ns() < 0.4e9 and time.monotonic() < deadline:
        time.sleep(0.02)
        seen.append(clock.read_ns())
    child.stdin.write(b"\n")
    child.stdin.flush()
    child.stdout.readline()
    for _ in range(5):
        time.sleep(0.01)
        seen.append(clock.read_ns())
    child.communicate(b"\n")
    used = used_by_children_s() - before
    assert seen == sorted(seen)
    assert seen[-1] / 1e9 == pytest.approx(used, rel=0.03, abs=0.03)


def test_a_child_nobody_waits_for_keeps_what_was_read():
    code = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"  # the kernel then forgets the child's time
        f"p = subprocess.Popen([sys.executable, '-c', {BUSY.format(0.3) + 'input()'!r}], stdin=subprocess.PIPE)\n"
        "print(flush=True); input(); p.stdin.close(); print(flush=True); input()\n"
        "end = time.process_time() + 0.1\n"
        "while time.process_time() < end: pass\n"
        "print(flush=True); input()\n"
    )

    def go_on() -> None:
        child.stdin.write(b"\n")
        child.stdin.flush()
        child.stdout.readline()

    child = started(code)
    child.stdout.readline()
    clock = TreeClock(child.pid, rescan=1)
    deadline = time.monotonic() + 10
    while clock.read_ns() < 0.3e9 and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = clock.read_ns()
    go_on()
    while len(tree_of(child.pid)) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    after = clock.read_ns()
    go_on()
    later = clock.read_ns()
    child.communicate(b"\n")
    assert after >= alive >= 0.3e9
    # What comes next counts on top; it is not swallowed until the old height is reached again.
    assert 0.1e9 <= later - after < 0.2e9


def test_a_root_that_is_gone_is_lost_and_an_absent_one_refused():
    child = started("input()")
    meter = ModelledCpuMeter()
    meter.open(child.pid, None)
    assert meter.read()[0].status is ReadStatus.OK
    child.kill()
    child.communicate()
    [sample] = meter.read()
    assert (sample.status, sample.value) == (ReadStatus.LOST, None)
    with pytest.raises(UserError, match=f"there is no process {child.pid}"):
        ModelledCpuMeter().open(child.pid, None)


def test_without_a_process_there_is_nothing_to_read():
    meter = ModelledCpuMeter()
    info = meter.open(None, None)
    sample = meter.read()[0]
    assert (sample.status, sample.value) == (ReadStatus.MISSING, None)
    assert energy_of(info, [sample], 0, 10**9).joules is None


def test_the_tree_is_found():
    child = started("import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(flush=True); input()'])")
    deadline = time.monotonic() + 10
    while not children_of(child.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(tree_of(child.pid)) == 2
    assert child.pid in children_of(os.getpid())
    child.communicate(b"\n")
    assert stat_of(child.pid) is None
    assert cpu_ns(child.pid) is None
    assert children_of(child.pid) == []


def test_a_known_processor_on_the_bare_machine_gets_its_share_of_the_table(table):
    cpu = Cpu("AMD EPYC 7763 64-Core Processor", logical=256, sockets=2, virtual=False)
    model = model_of(cpu, *table)
    assert model.watts_per_core == 280 / 128
    assert "280 W thermal design power of 'AMD EPYC 7763' over 128 logical CPUs" in model.assumptions[0]


@pytest.mark.parametrize(
    ("cpu", "why"),
    [
        (Cpu("AMD EPYC", 2, 1, True), "calls itself 'AMD EPYC', which is not in the table"),
        (Cpu("AMD EPYC 7763 64-Core Processor", 4, 1, True), "this is a virtual machine with 4 logical CPUs"),
        (Cpu("", 4, 1, False), "calls itself 'no name'"),
    ],
)
def test_where_the_table_can_not_tell_codecarbons_constant_is_taken_openly(table, cpu, why):
    model = model_of(cpu, *table)
    assert model.watts_per_core == WATTS_PER_UNKNOWN_CORE
    assert model.gain_error == 0.5
    assert why in model.assumptions[0]
    assert "constant for unknown processors" in model.source


def test_the_constant_is_codecarbons():
    assert importlib.import_module("codecarbon.core.cpu").DEFAULT_POWER_PER_CORE == WATTS_PER_UNKNOWN_CORE


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Xeon(R) Platinum 8462Y+", "Intel Xeon Platinum 8462Y+"),
        ("Intel(R) Core(TM) i5-3450 CPU @ 3.10GHz", "Intel Core i5-3450"),
        ("AMD EPYC", None),
        ("AMD EPYC 7763P", None),
        ("Intel Xeon Processor (Skylake, IBRS)", None),
        ("QEMU Virtual CPU version 2.5+", None),
        ("", None),
    ],
)
def test_names_are_matched_whole_or_not_at_all(table, name, entry):
    assert find(name, table[0]) == entry


def test_every_entry_of_the_table_finds_itself_or_an_equal(table):
    """Names with a clock rate or the word CPU lose it on the way in; none may land on another's watts."""
    watts, _ = table
    for name in list(watts)[::251]:
        found = find(name, watts)
        assert found is None or watts[found] == watts[name]


def test_the_processor_is_read_from_cpuinfo():
    text = "".join(
        f"processor\t: {i}\nmodel name\t: AMD EPYC 7763\nphysical id\t: {i // 2}\nflags\t\t: fpu hypervisor\n\n"
        for i in range(4)
    )
    assert cpu_of(text) == Cpu("AMD EPYC 7763", logical=4, sockets=2, virtual=True)
    assert cpu_of(text.replace("hypervisor", "")).virtual is False


def test_given_watts_are_taken_and_noted():
    meter = ModelledCpuMeter(watts_per_core=2.5)
    info = meter.open(os.getpid(), None)
    assert info.channels[0].scale == 2.5
    assert "watts per core were given" in info.assumptions
    with pytest.raises(UserError, match="between 0 and 1000"):
        ModelledCpuMeter(watts_per_core=0)


def test_the_table_is_read_without_importing_codecarbon():
    code = (
        "import os, sys; from harness.meter.modelled import ModelledCpuMeter as M; M().open(os.getpid(), None);"
        "print([m for m in ('codecarbon', 'pandas', 'torch', 'numpy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
