"""Planning must stay cheap to import: it runs before anything heavy is wanted."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "scipy", "pandas", "matplotlib", "transformers", "codecarbon", "rich")


def test_loading_and_planning_import_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "import harness.suite.load, harness.suite.plan, harness.suite.show, harness.suite.schema\n"
        "harness.suite.machine.detect('cpu')\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
