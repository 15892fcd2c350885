"""Whether torch can use a card, tried in a process of its own: a hanging driver must not hang the doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from harness.doctor.types import TorchFacts

TIMEOUT_S = 60.0
_PROBE = """
import json, torch
found = {"version": torch.__version__, "cuda_build": torch.version.cuda, "usable": False, "says": ""}
try:
    count = torch.cuda.device_count()
    if not count:
        found["says"] = "torch sees no card"
    for index in range(count):
        a = torch.ones(256, 256, device=f"cuda:{index}")
        assert float((a @ a).sum()) == 256.0 ** 3
        torch.cuda.synchronize(index)
    if count:
        found["usable"] = True
        found["says"] = f"multiplied a matrix on {count} card{'s' if count > 1 else ''}"
except Exception as error:
    found["says"] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
print(json.dumps(found))
"""


def without_card() -> TorchFacts:
    """The version alone, without importing it."""
    try:
        found = version("torch")
    except PackageNotFoundError:
        return TorchFacts(version=None, says="torch is not installed: pip install torch")
    return TorchFacts(version=found, says="there is no card for it to use")


def start() -> subprocess.Popen[str]:
    """Begin the probe in the background."""
    return subprocess.Popen(
        [sys.executable, "-c", _PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def finish(probe: subprocess.Popen[str], timeout_s: float = TIMEOUT_S) -> TorchFacts:
    """What it found; a probe that does not end in time is killed and says so."""
    known = without_card()
    if known.version is None:
        probe.kill()
        probe.communicate()
        return known
    try:
        out, _ = probe.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        probe.kill()
        probe.communicate()
        return known.model_copy(update={"usable": False, "says": f"torch did not answer within {timeout_s:g} s"})
    try:
        return TorchFacts.model_validate(json.loads(out.splitlines()[-1]))
    except (ValueError, IndexError):
        said = f"torch died while it tried the card (exit code {probe.returncode})"
        return known.model_copy(update={"usable": False, "says": said})
