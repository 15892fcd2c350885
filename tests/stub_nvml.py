"""Builds ``stub_nvml.c``: a ``libnvidia-ml.so.1`` for the real ``pynvml``, in a process that finds it first."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_suffix(".c")


def build(folder: Path, *without: str) -> dict[str, str]:
    """Compile into ``folder``; returns the environment that makes a process load it. Skips without a compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    defines = [f"-D{name}" for name in without]
    target = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", *defines, "-o", target, SOURCE], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}
