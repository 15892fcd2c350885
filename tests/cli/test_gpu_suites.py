"""The suites for one H100: planned for a card that is not here, and shrunk to run under a simulated one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import app

SUITES = Path(__file__).parents[2] / "suites"
TINY = [
    "device=cpu",
    "idle=0",
    "workload_options={data: markov, sequence_length: 16}",
    "experiments[0].sizes=[0.1M]",
    "experiments[0].seeds=1",
]
STEADY = ["experiments[0].recipe={sampled_seconds: 0.1, sampled_steps: 2, batch_size: 2}"]
EAGER = ["experiments[0].factors.compile=[false]", *STEADY]
TRAIN = [
    "experiments[0].recipe={steps: 6, batch_size: 2, evaluations: 2}",
    "experiments[0].options={evaluation_tokens: 256, curve_tokens: 256}",
    "experiments[0].arms=[dense, dense-aa, sat, dense-short]",
]


@pytest.mark.parametrize(
    ("name", "hours"), [("h100-meter", 0.5), ("h100-steady", 4.0), ("h100-train", 6.0), ("h100-modes", 2.0)]
)
def test_each_has_a_plan_whose_figures_are_called_assumed(name, hours):
    _, planned = app.make_plan(SUITES / f"{name}.yaml", [], None, None, None, None, "H100")
    assert 60 < planned.totals.seconds < hours * 3600
    assert 0 < planned.totals.energy_j <= 700 * planned.totals.seconds
    assert any(note.startswith("assumed: this card is not here") for note in planned.notes)
    assert max(sum(run.prediction.seconds or 0 for run in block.runs) for block in planned.blocks) < 3600
    assert all((run.prediction.seconds or 0) < 500 for run in planned.runs), "a run must fit a slice of nine minutes"


def test_what_does_not_fit_the_card_is_skipped_with_the_reason():
    _, planned = app.make_plan(SUITES / "h100-steady.yaml", [], None, None, None, None, "H100")
    skipped = {run.spec.size: run.skip for run in planned.runs if run.skip}
    assert list(skipped) == ["13B"]
    assert "of GPU memory, this machine has 80 GiB" in skipped["13B"]
    assert {run.spec.size for run in planned.runs if not run.skip} == {"124M", "350M", "1.3B", "3B", "7B"}


@pytest.mark.parametrize(
    ("name", "changes", "runs"),
    [
        ("h100-steady", [*EAGER, "experiments[0].arms=[dense, sat-25, freeze]"], 3),
        ("h100-modes", [*EAGER, "experiments[0].factors.checkpointing=[true]"], 4),
        ("h100-meter", STEADY, 2),
        ("h100-train", TRAIN, 4),
    ],
)
def test_a_shrunken_one_runs_to_its_page_on_a_simulated_card(name, changes, runs, tmp_path):
    settings = [*TINY, *changes]
    command = [sys.executable, "-m", "harness", "run", SUITES / f"{name}.yaml", "--meter", "simulated:h100-quickstart"]
    command += ["--results", tmp_path / "set", "-o", tmp_path / "page.html", "--json"]
    command += ["--only", "0.1M"]
    command += [part for setting in settings for part in ("--set", setting)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, timeout=200, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    document = json.loads(done.stdout)
    assert document["runs"]["failed"] == document["runs"]["left"] == 0
    assert document["runs"]["done"] == runs
    if name == "h100-modes":
        # Not the effects: of steps this short on a busy machine a gate may refuse the energies.
        found = {comparison["levels"]["precision"] for comparison in document["judgement"]["comparisons"]}
        assert found == {"fp32", "bf16"}
    page = (tmp_path / "page.html").read_text()
    assert "Do fewer FLOPs become less time and less energy?" in page
