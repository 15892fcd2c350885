"""What holds for all tests."""

from __future__ import annotations

import pytest

ONE_PAIR = {"test_sat_distributed.py", "test_sat_conformance.py"}
"""They share one pair of processes, ``sat/conftest.py``."""

ALONE = {"measure", "run"}
"""Folders whose tests stop, kill and time real processes, and must not meet others that take the machine."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks: what runs ``alone``; and with several workers (``-n``) a file stays on one of them, so that what its tests
    share is made once."""
    for item in items:
        if item.path.parent.name in ALONE:
            item.add_marker(pytest.mark.alone)
        if config.pluginmanager.hasplugin("xdist"):
            group = "a pair of processes" if item.path.name in ONE_PAIR else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
