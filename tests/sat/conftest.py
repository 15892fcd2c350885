"""What several files of tests share: one pair of processes for all that needs two."""

from __future__ import annotations

import pickle
import socket

import pytest
from sat_children import CHILDREN
from sat_processes import main

TIME_LIMIT_S = 240  # of all cases together, on a machine that is busy


@pytest.fixture(scope="session")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="session")
def results(directory):
    """By rank and case."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [CHILDREN.Process(target=main, args=(rank, directory, port)) for rank in range(2)]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(TIME_LIMIT_S)
    finally:
        for process in processes:
            process.kill()
    return [pickle.loads((directory / f"rank{rank}").read_bytes()) for rank in range(2)]


@pytest.fixture
def of(results):
    """What each rank found in a case."""

    def found(case: str) -> list[dict]:
        ranks = [
            result.get(case, {"failed": f"not reached; the last case was {list(result)[-1]}"}) for result in results
        ]
        for rank, result in enumerate(ranks):
            assert "failed" not in result, f"rank {rank}: {result['failed']}"
        return ranks

    return found
