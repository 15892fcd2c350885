"""End to end on simulated cards: a planted saving reaches the page, marked at every step, and verifies nothing."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys

import pytest
from small import walk, write_suite

from harness import app
from harness.judge.compare import mismatch
from harness.record.ledger import Ledger

CLAIMS = """\
name: easy
title: Easy to meet
claims:
  - {id: saves-anything, text: Saves something, metric: energy_saving, at_least: 0.001, arms: [sat]}
  - {id: saves-all, text: Saves nearly everything, metric: energy_saving, at_least: 0.99, arms: [sat]}
  - {id: counts, text: Saves FLOPs, metric: flops_saving, at_least: 0.001, arms: [sat]}
"""
# Refreshed far more often than a tiny training is long, so that the planted watts come out to a part in a thousand.
SCENARIO = """\
title: A planted saving
load: {power_w: 100}
arms: {sat: {power_w: 60}}
idle: {power_w: 10}
cards:
  - sensor: {period_s: 0.001, window_s: 0.001}
    counter: {of: power, period_s: 0.001}
"""
WATTS = {"dense": 100.0, "sat": 60.0}


def harness(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated")
    suite = write_suite(folder / "s.yaml", seeds=2, arms="dense, sat", steps=60)
    suite.write_text(suite.read_text().replace("idle: 0s", "idle: 1s") + "claims: easy.yaml\nmeter: simulated:w.yaml\n")
    (folder / "easy.yaml").write_text(CLAIMS)
    (folder / "w.yaml").write_text(SCENARIO)
    return folder, harness("run", suite, "--results", folder / "set", "-o", folder / "page.html", "--json")


def test_the_planted_watts_are_what_each_arm_drew(played):
    folder, done = played
    assert done.returncode == 0, done.stderr
    records = Ledger(folder / "set").records()
    assert [record.ok for record in records] == [True] * 4, [record.reason for record in records]
    for record in records:
        # Of real time: how far a read comes too late is up to the machine's other work.
        assert record.energy.joules == pytest.approx(WATTS[record.spec.arm] * record.seconds, rel=0.05)
        assert record.idle_power_w == pytest.approx(10, rel=0.2)


def test_what_was_run_follows_from_its_raw_files_to_the_byte(played):
    folder, _ = played
    report = app.audit(folder / "set", folder / "page.html")
    assert report.findings == []
    assert report.rebuilt == 4


def test_a_record_says_simulated_wherever_it_says_anything_of_its_energy(played):
    folder, _ = played
    for record in Ledger(folder / "set").records():
        energies = [record.energy, *(window.energy for window in record.windows)]
        assert {energy.basis for energy in energies} == {"simulated"}
        assert all("simulat" in energy.source for energy in energies)
        assert record.meter.name == record.meter.basis == "simulated"
        assert {channel.basis for channel in record.meter.channels} == {"simulated"}
        assert all("SIMULATED" in channel.device for channel in record.meter.channels)
        assert record.meter.source.startswith("simulation w (")
        assert record.fingerprint["meter_choice"].endswith("simulated: nothing is measured, whatever runs")


def test_the_saving_is_theirs_and_never_verifies_or_refutes(played):
    folder, done = played
    document = json.loads(done.stdout)  # one document, whatever the workers print
    assert document["runs"] == {"done": 4, "new": 4, "left": 0, "failed": 0}
    judgement = document["judgement"]
    assert judgement["basis"] == "simulated"
    by_key = {(r.spec.arm, r.spec.seed): r for r in Ledger(folder / "set").records()}
    logs = [math.log(by_key["sat", seed].energy.joules / by_key["dense", seed].energy.joules) for seed in (0, 1)]
    (comparison,) = judgement["comparisons"]
    assert comparison["saving"]["value"] == pytest.approx(1 - math.exp(sum(logs) / 2))
    assert {comparison[key]["basis"] for key in ("saving", "net_saving", "time_saving", "power_saving")} == {
        "simulated"
    }
    about_energy = [v for v in judgement["verdicts"] if v["claim"]["metric"] == "energy_saving"]
    assert {verdict["status"] for verdict in about_energy} <= {"inconclusive", "invalid"}
    assert {verdict["model_says"] for verdict in about_energy} == {""}


def test_no_exit_code_passes_simulated_energy(played):
    folder, _ = played
    assert app.verify(folder / "set")[2] in {3, 4}
    assert app.compare(folder / "set", folder / "set")[2] in {3, 4}


def test_the_counted_claim_alone_does_not_make_the_set_pass(played, tmp_path):
    folder, _ = played
    copy = tmp_path / "set"
    copy.mkdir()
    for name in ("set.json", "suite.yaml", "records.jsonl"):
        (copy / name).write_bytes((folder / "set" / name).read_bytes())
    plan = json.loads((folder / "set" / "plan.json").read_text())
    plan["claims"] = [claim for claim in plan["claims"] if claim["id"] == "counts"]
    (copy / "plan.json").write_text(json.dumps(plan))
    judgement, _, code = app.verify(copy)
    assert [verdict.status for verdict in judgement.verdicts] == ["verified"]
    assert code == 3


def test_every_output_says_simulated(played):
    folder, done = played
    page = (folder / "page.html").read_text()
    assert "SIMULATED" in re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "its energies are simulated: nothing is measured" in done.stderr
    ends = [line for line in done.stderr.splitlines() if line.startswith("✓")]
    assert len(ends) == 4
    assert all("J" in line and "(simulated)" in line for line in ends)
    _, table, _ = app.verify(folder / "set")
    assert "(simulated energy)" in table
    assert "SIMULATED: a made-up instrument" in table
    assert "**SIMULATED**" in app.render(folder / "set", "md")
    assert json.loads(app.render(folder / "set", "json"))["judgement"]["basis"] == "simulated"


def test_the_audit_derives_every_joule_from_the_samples(played):
    folder, _ = played
    findings = app.audit(folder / "set").findings
    assert [finding for finding in findings if "page" not in str(finding)] == []


def test_runs_of_another_scenario_make_no_pair(played):
    """Half of a block from one scenario, half from another: the cards' UUIDs tell them apart."""
    folder, _ = played
    base, run = (next(r for r in Ledger(folder / "set").records() if r.spec.arm == arm) for arm in ("dense", "sat"))
    assert mismatch(base, run) == ""
    channels = tuple(c.model_copy(update={"device": "GPU-SIMULATED-0123abcd-0"}) for c in run.meter.channels)
    other = run.model_copy(update={"meter": run.meter.model_copy(update={"channels": channels})})
    assert mismatch(base, other).startswith("not the same devices were metered: GPU-SIMULATED-")


@pytest.mark.parametrize(
    ("fault", "says"),
    [("lost", "was lost while it was measured"), ("crash", "the simulated driver's library broke down")],
)
def test_a_fault_makes_a_real_run_invalid_with_its_reason(tmp_path, fault, says):
    (tmp_path / "w.yaml").write_text(f"{SCENARIO}    faults: [{{kind: {fault}, from_s: 0.3}}]\n")
    suite = write_suite(tmp_path / "s.yaml", arms="dense", steps=120)
    _, watcher = walk(suite, tmp_path / "set", meter=app.choose_meter(f"simulated:{tmp_path / 'w.yaml'}", "cpu"))
    (record,) = watcher.records
    assert record.seconds > 0.4
    assert record.status == "invalid"
    assert says in record.reason
    assert record.energy.basis == "simulated"
