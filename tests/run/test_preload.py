"""The fork server holds all of our code that a worker uses."""

from __future__ import annotations

import json
import subprocess
import sys

from small import write_suite

from harness import app

CODE = """
import json, sys
import harness.run.preload
from harness.run import worker
from harness.suite.spec import RunSpec

held = set(sys.modules)
for spec in json.load(sys.stdin):
    worker.work(RunSpec.model_validate(spec), lambda event: None, lambda: None)
late = {name for name in set(sys.modules) - held if name.split(".")[0] in {"harness", "sat"}}
assert not late, f"read from disk by a worker: {sorted(late)}"
"""


def test_a_worker_reads_none_of_our_code_from_disk(tmp_path):
    """Else a commit made while a set is recorded would reach its later runs under the old revision."""
    suite = write_suite(tmp_path / "s.yaml", steps=4, arms="dense, sat, sat-width, dense-short")
    text = suite.read_text().replace("arms:\n", "arms:\n  dense-short: {match: sat}\n", 1)
    suite.write_text(text)
    _, planned = app.make_plan(suite, [], None, None, None, tmp_path / "set")
    specs = json.dumps([run.spec.model_dump(mode="json") for run in planned.runs])
    done = subprocess.run([sys.executable, "-c", CODE], input=specs, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
