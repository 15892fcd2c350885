"""Each example runs as a user runs it, learns something, and leaves the plain model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
FULL = 246_336  # parameters of the examples' model, dense
LAST_LINE = {"accelerate_loop.py": "resumed: the same, bit for bit"}


def programs() -> list[str]:
    """Every file that is run by itself; ``tiny.py`` is what they share."""
    return sorted(path.name for path in EXAMPLES.glob("*.py") if path.name not in {"tiny.py", "distributed.py"})


@pytest.mark.parametrize("name", programs())
def test_an_example_learns_and_leaves_the_plain_model(name):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, last = (float(loss) for loss in re.search(r"^loss: first (\S+), last (\S+)$", done.stdout, re.M).groups())
    assert last < 0.6 * first
    mean = re.search(r"^\d+ steps; active units 100\.0% \(mean (\S+)%\)", done.stdout, re.M)
    assert 70 < float(mean[1]) < 80  # half of the units for half of the steps
    assert f"parameters: {FULL:,}\n" in done.stdout
    assert LAST_LINE.get(name, "") in done.stdout.splitlines()[-1]
