"""End to end through made-up watts: a planted saving reaches the page, marked as simulated, and verifies nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from small import write_suite

from harness.record.ledger import Ledger

CLAIMS = """\
name: easy
title: Easy to meet
claims:
  - {id: saves-anything, text: Saves something, metric: energy_saving, at_least: 0.001, arms: [sat]}
  - {id: saves-all, text: Saves nearly everything, metric: energy_saving, at_least: 0.99, arms: [sat]}
"""
WATTS = {"dense": 100.0, "sat": 60.0}


def harness(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replay")
    suite = write_suite(folder / "s.yaml", seeds=2, arms="dense, sat")
    suite.write_text(suite.read_text() + "claims: easy.yaml\n")
    (folder / "easy.yaml").write_text(CLAIMS)
    (folder / "watts.yaml").write_text(f"power_w: {WATTS['dense']}\narms: {{sat: {{power_w: {WATTS['sat']}}}}}\n")
    options = ("--results", folder / "set", "-o", folder / "page.html", "--meter", f"replay:{folder / 'watts.yaml'}")
    return folder, harness("run", suite, *options, "--json")


def test_the_planted_watts_are_what_each_arm_drew(played):
    folder, done = played
    assert done.returncode == 0, done.stderr
    records = Ledger(folder / "set").records()
    assert [record.ok for record in records] == [True] * 4, [record.reason for record in records]
    for record in records:
        assert record.energy.basis == "simulated"
        assert record.energy.joules == pytest.approx(WATTS[record.spec.arm] * record.seconds, rel=1e-6)


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
    assert comparison["saving"]["basis"] == comparison["time_saving"]["basis"] == "simulated"
    assert {verdict["status"] for verdict in judgement["verdicts"]} <= {"inconclusive", "invalid"}
    assert harness("verify", folder / "set").returncode in {3, 4}


def test_page_and_table_say_simulated(played):
    folder, done = played
    page = (folder / "page.html").read_text()
    assert "SIMULATED" in page.upper()
    assert ">verified<" not in page.lower()
    assert "simulated: watts.yaml is played, nothing is measured" in done.stderr
    table = harness("verify", folder / "set")
    assert "(simulated energy)" in table.stdout
    assert "**SIMULATED**" in harness("report", folder / "set", "--format", "md").stdout


def test_the_audit_derives_every_joule_from_the_samples(played):
    folder, _ = played
    audit = harness("audit", folder / "set")
    assert (audit.returncode, audit.stderr) == (0, ""), audit.stdout
    assert "every number follows from the raw samples" in audit.stdout
