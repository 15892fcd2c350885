"""Runs in real processes: what goes wrong becomes a record, what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small import Watcher, walk, write_suite

import harness.run.runner
from harness import app
from harness.meter.sampler import Sampler, SamplerError
from harness.record.ledger import Ledger, latest, sha256_of
from harness.record.record import Status
from harness.types import UserError

LONG = 100_000  # steps that no test waits for


def children_of(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def test_a_suite_runs_once_and_its_records_are_complete(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml"), tmp_path / "set"
    outcome, _watcher = walk(suite, results)
    assert (outcome.done, outcome.new, outcome.left) == (3, 3, 0)
    records = Ledger(results).records()
    assert [record.status for record in records] == [Status.OK] * 3, [record.reason for record in records]
    for record in records:
        assert record.energy.joules > 0
        assert record.energy.basis == "modelled"
        assert [point.step for point in record.curve] == [4, 8]
        joules = [point.energy_j for point in record.curve]
        assert joules == sorted(joules)
        assert joules[-1] == pytest.approx(record.energy.joules, rel=1e-6)
        assert record.curve[-1].flops == pytest.approx(record.flops.total)
        assert record.samples.sha256 == sha256_of(results / record.samples.path)
        assert record.events.sha256 == sha256_of(results / record.events.path)
        assert 1.0 < record.quality["loss"] < 7.0
    by_arm = {record.spec.arm: record for record in records}
    assert by_arm["sat"].flops.total < by_arm["dense"].flops.total
    assert {record.fingerprint_id for record in records} == {records[0].fingerprint_id}

    before = (results / "records.jsonl").read_bytes()
    again, _ = walk(suite, results)
    assert (again.done, again.new) == (3, 0)
    assert (results / "records.jsonl").read_bytes() == before


def test_a_killed_worker_is_a_failed_record_and_the_suite_goes_on(tmp_path):
    results = tmp_path / "set"
    suite = write_suite(tmp_path / "s.yaml", arms="dense, sat")
    killed = []

    def kill(progress):
        if not killed:
            events = max((results / "events").iterdir(), key=lambda path: path.stat().st_mtime)
            killed.append(json.loads(events.read_text().splitlines()[0])["pid"])
            os.kill(killed[0], signal.SIGKILL)

    _, watcher = walk(suite, results, Watcher(kill))
    assert [record.status for record in watcher.records] == [Status.FAILED, Status.OK]
    assert watcher.records[0].reason.startswith("killed by signal 9")
    assert watcher.records[0].energy.joules > 0  # kept as wasted

    outcome, watcher = walk(suite, results)
    assert (outcome.new, outcome.done) == (1, 2)
    assert watcher.records[0].attempt == 2
    assert len(Ledger(results).records()) == 3


def test_a_run_that_raises_is_a_failed_record_with_its_error(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("a document of words\n\n" * 200)
    suite = write_suite(tmp_path / "s.yaml", arms="dense")
    suite.write_text(suite.read_text().replace("data: markov", f"data: {text}"))
    plan = harness.app.make_plan

    def plan_then_lose_the_text(*arguments):
        planned = plan(*arguments)
        text.unlink()
        return planned

    monkeypatch.setattr(harness.app, "make_plan", plan_then_lose_the_text)
    _, watcher = walk(suite, tmp_path / "set")
    assert watcher.records[0].status is Status.FAILED
    assert "text.txt" in watcher.records[0].reason
    (told,) = (tmp_path / "set" / "events").glob("*.jsonl")
    trace = json.loads(told.read_text().splitlines()[-1])["traceback"]
    assert 'File "harness/run/worker.py", line' in trace  # where in the code, not where on the machine
    assert f'File "{Path(harness.__file__).parents[1]}' not in trace


def test_a_run_over_the_timeout_is_stopped(tmp_path):
    suite = write_suite(tmp_path / "s.yaml", arms="dense", steps=LONG, timeout="100h")
    results = tmp_path / "set"
    loaded, planned = harness.app.make_plan(suite, [], None, None, None, results)
    watcher = Watcher()
    runner = harness.run.runner.Runner(
        loaded.model_copy(update={"timeout_s": 1.0}),
        planned.blocks,
        Ledger(results),
        harness.app.choose_meter("modelled", "cpu"),
        watcher,
    )
    runner.run("", {})
    assert watcher.records[0].status is Status.FAILED
    assert watcher.records[0].reason == "took longer than the suite's timeout of 1 s"


def test_a_dead_sampler_makes_the_run_invalid(tmp_path, monkeypatch):
    def stop(self):
        os.kill(self.pid, signal.SIGKILL)
        return real(self)

    real = Sampler.stop
    monkeypatch.setattr(Sampler, "stop", stop)
    _, watcher = walk(write_suite(tmp_path / "s.yaml", arms="dense"), tmp_path / "set")
    record = watcher.records[0]
    assert record.status is Status.INVALID
    assert "sampler" in record.reason


def test_a_meter_that_cannot_start_makes_the_run_invalid(tmp_path, monkeypatch):
    def start(self, *_, **__):
        raise SamplerError("no answer")

    monkeypatch.setattr(Sampler, "start", start)
    _, watcher = walk(write_suite(tmp_path / "s.yaml", arms="dense"), tmp_path / "set")
    record = watcher.records[0]
    assert record.status is Status.INVALID
    assert record.reason == "the meter could not be started: no answer"
    assert record.energy is None


def test_a_failing_run_is_given_up_after_three_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(Sampler, "start", lambda *_, **__: (_ for _ in ()).throw(SamplerError("no answer")))
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense", steps=1), tmp_path / "set"
    started = [walk(suite, results)[0].new for _ in range(5)]
    assert started == [1, 1, 1, 0, 0]


def test_the_budget_stops_before_a_run_and_the_next_walk_goes_on(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense, sat"), tmp_path / "set"
    outcome, _ = walk(suite, results, budget_s=0.001)
    assert (outcome.new, outcome.out_of_budget, outcome.left) == (0, True, 2)
    outcome, _ = walk(suite, results)
    assert (outcome.new, outcome.left) == (2, 0)


def test_a_device_that_stays_hot_ends_a_budget_instead_of_outlasting_it(tmp_path, monkeypatch):
    monkeypatch.setattr(harness.run.runner.Cooldown, "wait", lambda self, block, limit_s: limit_s > 30)
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense, sat", steps=1), tmp_path / "set"
    outcome, _ = walk(suite, results, budget_s=30)
    assert (outcome.new, outcome.out_of_budget, outcome.left) == (0, True, 2)
    outcome, _ = walk(suite, results)  # without a budget it is waited for as long as always, then run
    assert (outcome.new, outcome.left) == (2, 0)


def test_a_set_of_another_revision_is_refused_unless_asked_for(tmp_path, monkeypatch):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense"), tmp_path / "set"
    walk(suite, results)
    monkeypatch.setattr(harness.record.fingerprint, "code_revision", lambda: "another")
    with pytest.raises(UserError, match="--mix-revisions"):
        walk(suite, results)
    outcome, _ = walk(suite, results, mix_revisions=True)
    assert outcome.done == 1


def test_an_interrupted_attempt_keeps_its_samples_when_the_run_is_done_again(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense"), tmp_path / "set"

    def interrupt(_):
        raise KeyboardInterrupt

    outcome, _ = walk(suite, results, Watcher(interrupt))
    assert outcome.interrupted
    outcome, _ = walk(suite, results)
    assert (outcome.done, outcome.failed) == (1, 0)
    records = Ledger(results).records()
    assert [(record.attempt, record.ok) for record in records] == [(1, False), (2, True)]
    for record in records:
        for file in (record.samples, record.events):
            assert sha256_of(results / file.path) == file.sha256


def test_claims_stay_as_they_stood_before_the_first_good_run(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense", steps=1), tmp_path / "set"
    first, later = {"claims": [{"at_least": 0.62}]}, {"claims": [{"at_least": 0.01}]}
    walk(suite, results, context={"claims": [{"at_least": 0.9}]}, budget_s=1e-6)  # nothing was run yet
    walk(suite, results, context=first)
    assert Ledger(results).read_json("plan.json") == first
    _, watcher = walk(suite, results, context=later)
    assert Ledger(results).read_json("plan.json") == first
    assert any("kept as they stood before the first run" in text for text in watcher.said)


def test_skips_of_another_part_of_the_suite_are_kept(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense", steps=1), tmp_path / "set"
    there = {"run_id": "elsewhere", "reason": "no memory"}
    walk(suite, results, context={"suite": 1, "skipped": [there]}, budget_s=1e-6)
    walk(suite, results, context={"suite": 1, "skipped": []}, budget_s=1e-6)
    assert Ledger(results).read_json("plan.json")["skipped"] == [there]
    walk(suite, results, context={"suite": 2, "skipped": []}, budget_s=1e-6)
    assert Ledger(results).read_json("plan.json")["skipped"] == []


def test_a_set_of_another_meter_is_refused_unless_asked_for(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense", steps=1), tmp_path / "set"
    walk(suite, results)
    with pytest.raises(UserError, match="metered by modelled, this would be simulated"):
        walk(suite, results, meter=harness.app.choose_meter("simulated:h100", "cpu"))


def test_what_a_worker_prints_stays_out_of_standard_output(tmp_path):
    code = (
        "import multiprocessing\n"
        "from harness.run import worker\n"
        "worker.work = lambda *_: print('noise', flush=True)\n"
        "ours, theirs = multiprocessing.Pipe()\n"
        "ours.send(worker.BYE)\n"
        "worker.RunSpec = type('Spec', (), {'model_validate_json': staticmethod(lambda text: None)})\n"
        f"worker.main('', {str(tmp_path / 'events')!r}, theirs)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "noise\n")


def test_a_terminated_run_is_an_interrupted_one(tmp_path):
    suite, results = write_suite(tmp_path / "s.yaml", arms="dense", steps=LONG, timeout="100h"), tmp_path / "set"
    command = [sys.executable, "-m", "harness", "run", str(suite), "--results", str(results), "--meter", "modelled"]
    process = subprocess.Popen([*command, "-o", str(tmp_path / "page.html")], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not any('"progress"' in path.read_text() for path in results.glob("events/*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; 1 run left. The same command goes on from here" in out
    (record,) = Ledger(results).records()
    assert (record.status, record.reason) == (Status.FAILED, "interrupted")
    assert record.energy.joules > 0


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, Path]:
    """A suite and the results of a walk that nobody disturbed."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    suite = write_suite(folder / "s.yaml", arms="dense, sat", steps=150)
    walk(suite, folder / "whole")
    return suite, folder / "whole"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["interrupted", "killed"])
def test_the_same_command_resumes_and_ends_as_if_uninterrupted(uninterrupted, tmp_path, how):
    """The whole harness is ended in the middle of the second run, then started again."""
    (suite, whole), broken = uninterrupted, tmp_path / "broken"

    command = [sys.executable, "-m", "harness", "run", str(suite), "--results", str(broken)]
    command += ["-o", str(tmp_path / "page.html"), "--meter", "modelled"]
    command += ["--mix-revisions"]  # code edited while the tests run is no reason to fail
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    second = wait_for_second_run(broken)
    below = children_of(process.pid)
    process.send_signal(how)
    process.communicate(timeout=60)
    if how is signal.SIGINT:
        assert process.returncode == 130
    wait_until_gone([pid for pid in below if pid == second])

    done = [record for record in Ledger(broken).records() if record.ok]
    assert len(done) == 1
    left = app.audit(broken).findings
    assert any("no record refers to it: its run was killed" in finding for finding in left) == (how is signal.SIGKILL)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    expected, found = latest(Ledger(whole).records()), latest(Ledger(broken).records())
    assert expected.keys() == found.keys()
    for run_id, record in found.items():
        assert record.ok
        assert record.quality == expected[run_id].quality
        assert record.flops == expected[run_id].flops
    orphans = sorted(path.parent.name for path in broken.glob("*/*-orphan*"))
    assert orphans == (["events", "samples"] if how is signal.SIGKILL else [])
    audited = app.audit(broken)
    assert audited.findings == []
    assert [note for note in audited.notes if "kept of a run that was killed" in note] == audited.notes
    assert len(audited.notes) == len(orphans)


def wait_for_second_run(results: Path) -> int:
    """Process id of the second run's worker, once it makes progress."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        files = sorted((results / "events").glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
        if len(files) == 2:
            lines = files[1].read_text().splitlines()
            if any('"progress"' in line for line in lines):
                return int(json.loads(lines[0])["pid"])
        time.sleep(0.02)
    raise AssertionError("the second run did not begin")


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its harness"
        time.sleep(0.05)
