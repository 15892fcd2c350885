"""Workers on this machine, from a fork server.

The server has imported torch and transformers and touched no device, so a fresh process per run costs
milliseconds instead of seconds.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from harness.run import worker
from harness.suite.spec import RunSpec

PRELOAD = ["harness.run.preload"]


class Worker:
    """A started run."""

    def __init__(self, process: ForkServerProcess, pipe: Connection) -> None:
        self._process = process
        self._pipe = pipe

    @property
    def pid(self) -> int:
        """Process id, the root of what the meter watches."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """0 done, 1 said why, negative: ended by that signal."""
        return self._process.exitcode

    def go(self) -> None:
        """The meter runs: begin."""
        self._tell(worker.GO)

    def bye(self) -> None:
        """The meter has seen the end: go."""
        self._tell(worker.BYE)

    def _tell(self, word: str) -> None:
        try:
            self._pipe.send(word)
        except (BrokenPipeError, OSError):
            pass  # it died before it could begin; its exit code tells

    def wait(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        self._process.join(seconds)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """Let go of its handles, once it has ended."""
        self._pipe.close()
        self._process.close()


class LocalLauncher:
    """Starts workers on this machine, one at a time or several."""

    def __init__(self) -> None:
        self._context: ForkServerContext = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOAD)

    def start(self, spec: RunSpec, events: Path) -> Worker:
        """A fresh process for one run."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main, args=(spec.model_dump_json(), str(events), theirs), daemon=True
        )
        process.start()
        theirs.close()
        return Worker(process, ours)
