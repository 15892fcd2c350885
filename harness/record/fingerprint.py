"""What a result depends on beside its specification: machine, packages, code revision."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.types import digest

PACKAGES = ("sat-harness", "torch", "transformers", "tokenizers", "numpy", "nvidia-ml-py", "codecarbon")


def code_revision(root: Path | None = None) -> str:
    """The last commit that changed code, in the checkout that holds this package; ``+dirty-<hash>`` if code differs.

    Only code counts: commits and changes of results, reports, docs and suites alone leave the revision as it is.
    "unknown" outside a checkout.
    """
    root = root or Path(__file__).resolve().parents[2]
    code = ["--", "harness", "sat"]
    revision = _git(root, "log", "-1", "--format=%h", "--abbrev=12", *code)
    if not revision:
        return "unknown"
    changed = (_git(root, "diff", "HEAD", *code) or "") + (_git(root, "status", "--porcelain", *code) or "")
    if changed.strip():
        return f"{revision}+dirty-{hashlib.sha256(changed.encode()).hexdigest()[:8]}"
    return revision


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def machine() -> dict[str, Any]:
    """CPU, memory, operating system, versions. The same machine gives the same answer every time."""
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "os": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "virtual": _is_virtual(),
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _is_virtual() -> bool | None:
    try:
        return " hypervisor" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return None


def machine_id(facts: dict[str, Any]) -> str:
    """Short id: two records may be paired only if theirs agree."""
    return digest(facts)
