"""Delays between steps leave the training alone, are charged, and never make a GPU wait."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from small import write_suite

from harness import app
from harness.run import jitter, worker
from harness.run.events import Evaluated, Finished, Window, WindowKind
from harness.run.jitter import Jitter
from harness.suite.load import load
from harness.types import UserError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jitter")
    suite = write_suite(folder / "s.yaml", steps=10, arms="dense")
    return app.make_plan(suite, [], None, None, None, folder / "set")[1].runs[0].spec


def work(spec, **recipe):
    events = []
    worker.work(spec.model_copy(update={"recipe": spec.recipe.model_copy(update=recipe)}), events.append, lambda: None)
    return events


def test_it_is_part_of_the_charged_windows_and_touches_no_training(spec):
    plain, jittered = work(spec), work(spec, jitter_s=0.1)
    quality = [[event.metrics for event in events if isinstance(event, Evaluated)] for events in (plain, jittered)]
    assert quality[0] == quality[1]
    asked = Jitter(
        0.1, spec.model_copy(update={"recipe": spec.recipe.model_copy(update={"jitter_s": 0.1})}).run_id, CPU
    )
    delays = [asked._random.uniform(0, 0.1) for _ in range(10)]
    windows = [event for event in jittered if isinstance(event, Window) and event.kind is WindowKind.TRAIN]
    assert sum(w.end_ns - w.start_ns for w in windows) / 1e9 > sum(delays)
    finished = jittered[-1]
    assert isinstance(finished, Finished)
    assert f"10 random delays of up to 100 ms, {sum(delays):.3g} s together" in finished.notes[-1]
    assert not any("jitter" in note for note in plain[-1].notes)


def test_runs_have_delays_of_their_own(monkeypatch):
    slept = []
    monkeypatch.setattr(jitter.time, "sleep", slept.append)
    for run in ("a", "b", "a"):
        one = Jitter(0.02, run, CPU)
        for _ in range(200):
            one.delay()
    a, b, again = slept[:200], slept[200:400], slept[400:]
    assert a == again
    assert a != b
    assert min(slept) >= 0
    assert max(slept) <= 0.02
    assert sum(slept) / 600 == pytest.approx(0.01, rel=0.1)


class Card:
    """What the delay needs of torch.cuda; its clock runs at 1.5 GHz."""

    def __init__(self, monkeypatch):
        self.queued: list[int] = []
        self.synchronised = 0
        event = SimpleNamespace(record=lambda: None, elapsed_time=lambda _: self.queued[-1] / 1.5e6)
        monkeypatch.setattr(torch.cuda, "device", lambda _: torch.no_grad())
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: event)
        monkeypatch.setattr(torch.cuda, "_sleep", self.queued.append)
        monkeypatch.setattr(torch.cuda, "synchronize", self.synchronize)

    def synchronize(self, device):
        self.synchronised += 1


def test_on_a_gpu_the_delay_is_queued_by_the_card_s_own_clock(monkeypatch):
    card = Card(monkeypatch)
    one = Jitter(0.02, "a", CUDA)
    before = card.synchronised
    card.queued.clear()
    for _ in range(100):
        one.delay()
    assert card.synchronised == before  # nothing waited
    assert sum(card.queued) / 1.5e9 == pytest.approx(one.seconds, rel=1e-6)
    assert max(card.queued) <= 0.02 * 1.5e9


def test_a_torch_that_cannot_delay_a_gpu_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.delattr(torch.cuda, "_sleep")
    with pytest.raises(UserError, match=r"recipe\.jitter_s: .* set jitter_s to 0"):
        Jitter(0.02, "a", CUDA)


def test_a_suite_file_takes_it_and_a_plan_counts_it(tmp_path):
    def seconds(jitter_s):
        suite = write_suite(tmp_path / f"{jitter_s}.yaml", steps=100, arms="dense")
        text = suite.read_text().replace("steps: 100,", f"steps: 100, jitter_s: {jitter_s},")
        suite.write_text(text)
        assert load(suite).experiments[0].recipe["jitter_s"] == jitter_s
        return app.make_plan(suite, [], None, None, None, tmp_path / "set")[1].runs[0]

    none, some = seconds(0), seconds(0.5)
    assert none.spec.run_id != some.spec.run_id
    assert some.prediction.seconds - none.prediction.seconds == pytest.approx(100 * 0.25)
    with pytest.raises(UserError, match="jitter_s"):
        seconds(-1)
