"""The loop: windows that tile the training, phases that are kept, faults that are named."""

from __future__ import annotations

import itertools

import pytest
import torch
from small import write_suite

from harness import app
from harness.run import train, worker
from harness.run.count import count
from harness.run.events import Activity, Evaluated, Finished, Started, Window, WindowKind
from harness.run.train import STEADY_WARMUP_STEPS, DivergedError
from harness.suite.spec import Phase, Protocol
from harness.workloads.language.task import LanguageTask


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loop")
    _, planned = app.make_plan(write_suite(folder / "s.yaml", steps=20), [], None, None, None, folder / "set")
    return {run.spec.arm: run.spec for run in planned.runs}


def work(spec):
    events = []
    worker.work(spec, events.append, lambda: None)
    return events


@pytest.mark.parametrize("arm", ["dense", "sat", "sat-width"])
def test_windows_tile_the_training_without_overlap(specs, arm):
    events = work(specs[arm])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    windows = [event for event in events if isinstance(event, Window)]
    for before, after in itertools.pairwise(windows):
        assert before.end_ns <= after.start_ns
    steps = [w for w in windows if w.kind is WindowKind.TRAIN]
    assert [w.first_step for w in steps] == [sum(w.steps for w in steps[:i]) for i in range(len(steps))]
    assert sum(w.steps for w in steps) == 20
    for index, phase in enumerate(specs[arm].phases):
        assert sum(w.steps for w in steps if w.phase == index) == phase.steps
        probes = [w for w in windows if w.kind is WindowKind.PROBE and w.phase == index]
        assert len(probes) >= phase.probes
    points = [event for event in events if isinstance(event, Evaluated)]
    assert [(point.step, point.final) for point in points] == [(10, False), (20, False), (20, True)]


def test_the_active_share_is_logged_as_planned(specs):
    shares = [(e.step, e.active_units) for e in work(specs["sat"]) if isinstance(e, Activity)]
    assert shares == [(0, pytest.approx(1 / 6)), (16, 1.0)]


def test_equal_specs_give_equal_quality(specs):
    def quality(events):
        return [event.metrics for event in events if isinstance(event, Evaluated)]

    assert quality(work(specs["sat-width"])) == quality(work(specs["sat-width"]))


def test_steady_measures_each_phase_with_a_probe_apart(specs):
    spec = specs["sat-width"].model_copy(update={"protocol": Protocol.STEADY})
    sampled = spec.recipe.sampled_steps
    windows = [event for event in work(spec) if isinstance(event, Window)]
    for index, phase in enumerate(spec.phases):
        kinds = [(w.kind, w.steps) for w in windows if w.phase == index]
        expected = [(WindowKind.WARMUP, STEADY_WARMUP_STEPS), (WindowKind.TRAIN, sampled)]
        assert kinds == expected + [(WindowKind.PROBE, 0)] * bool(phase.probes)


def test_a_phase_is_measured_for_the_seconds_asked_for(specs):
    recipe = specs["dense"].recipe.model_copy(update={"sampled_seconds": 0.5, "sampled_steps": 2})
    spec = specs["dense"].model_copy(update={"protocol": Protocol.STEADY, "recipe": recipe})
    (measured,) = [e for e in work(spec) if isinstance(e, Window) and e.kind is WindowKind.TRAIN]
    assert measured.steps > 2
    assert (measured.end_ns - measured.start_ns) / 1e9 > 0.2  # by the pace of a few steps: not exact


def test_the_peak_of_memory_is_training_not_evaluation(specs, monkeypatch):
    memory = {"peak": 0}
    evaluate = LanguageTask.evaluate

    def large(task, *, final):
        memory["peak"] = 99
        return evaluate(task, final=final)

    monkeypatch.setattr(LanguageTask, "evaluate", large)
    monkeypatch.setattr(train, "reset_peak_memory", lambda device: memory.update(peak=10))
    monkeypatch.setattr(train, "peak_memory_bytes", lambda device: memory["peak"])
    assert work(specs["dense"])[-1].peak_memory_bytes == 10


def test_a_loss_that_is_not_finite_ends_the_run_with_advice(specs):
    recipe = specs["dense"].recipe.model_copy(update={"learning_rate": 1e30, "clip_norm": None, "warmup_share": 0.0})
    with pytest.raises(DivergedError, match=r"lower learning rate than 1e\+30"):
        work(specs["dense"].model_copy(update={"recipe": recipe}))


def test_running_out_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert worker.is_out_of_memory(caught.value)
    assert worker.is_out_of_memory(MemoryError())
    assert worker.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not worker.is_out_of_memory(RuntimeError("shapes do not match"))


def test_counting_is_linear_in_the_phases(specs):
    spec = specs["dense"]
    one = count(spec)
    twice = count(spec.model_copy(update={"phases": (Phase(steps=12), Phase(steps=8))}))
    assert twice.per_step == one.per_step * 2
    assert twice.total == one.total
