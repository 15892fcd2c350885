"""What holds for all tests."""

from __future__ import annotations

import pytest

ONE_PAIR = {"test_sat_distributed.py", "test_sat_conformance.py"}
"""They share one pair of processes, ``sat/conftest.py``."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several workers (``-n``) a file stays on one of them, so that what its tests share is made once."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            group = "a pair of processes" if item.path.name in ONE_PAIR else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
