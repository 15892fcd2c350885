"""A hot device is waited for, a room that stays warm is not."""

from __future__ import annotations

import pytest

from harness.run import cooldown
from harness.run.cooldown import Cooldown


@pytest.fixture
def slept(monkeypatch):
    """Time that passes only by sleeping."""
    clock = [0.0]
    monkeypatch.setattr(cooldown.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(cooldown.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + seconds))
    return clock


def test_later_runs_of_a_block_wait_for_its_first_temperature(slept):
    readings = iter([40.0, 60.0, 50.0, 45.0, 44.0])
    waiting = Cooldown(5.0, lambda: next(readings), print)
    waiting.wait("a")
    assert slept[0] == 0
    waiting.wait("a")
    assert slept[0] == 2 * cooldown.POLL_S
    waiting.wait("b")  # another block has a temperature of its own
    assert slept[0] == 2 * cooldown.POLL_S


def test_it_gives_up_and_says_so(slept):
    readings = iter([40.0, *[80.0] * 10_000])
    said = []
    waiting = Cooldown(5.0, lambda: next(readings), said.append)
    assert waiting.wait("a")
    assert not waiting.wait("a")
    assert slept[0] == pytest.approx(cooldown.LIMIT_S, abs=2 * cooldown.POLL_S)
    assert not waiting.wait("a", 30)
    assert slept[0] == pytest.approx(cooldown.LIMIT_S + 30, abs=4 * cooldown.POLL_S)
    assert said == [f"a: still at 80 C after {limit} s, it began at 40 C" for limit in (600, 30)]


def test_without_a_thermometer_it_says_so_once(slept):
    said = []
    waiting = Cooldown(5.0, lambda: None, said.append)
    waiting.wait("a")
    waiting.wait("a")
    assert slept[0] == 0
    assert said == ["a: cooldown_c has no effect here, the meter reads no temperature"]


def test_it_is_off_by_default():
    Cooldown(None, lambda: pytest.fail("nothing to read"), print).wait("a")
