import os

import pytest

from harness.record import fingerprint

os.environ["OMP_NUM_THREADS"] = "1"  # for the workers: two threads on one busy core wait for each other


@pytest.fixture(autouse=True)
def _one_revision(monkeypatch):
    """Code edited while the tests run is no reason to refuse a result set."""
    monkeypatch.setattr(fingerprint, "code_revision", lambda: "test")


@pytest.fixture(autouse=True, scope="session")
def _cache_apart(tmp_path_factory):
    """Tests neither read nor fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
