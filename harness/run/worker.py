"""One process = one run. It counts, says hello, waits for the meter, trains, says goodbye.

Everything it has to say goes to an events file, one JSON line in one write, so that what was said
before a kill is never lost.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from typing import Any

from harness.run.events import Event, Failed, Finished, Started
from harness.suite.spec import Protocol, RunSpec

GO = "go"
"""What the parent sends once the meter runs."""

BYE = "bye"
"""What it sends once the meter has seen the end."""


class Parent:
    """The other end of the worker's life: what it says is waited for; if it is gone, so is the worker."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._said = {GO: threading.Event(), BYE: threading.Event()}
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_for(self, word: str) -> None:
        """Block until the parent has said it."""
        self._said[word].wait()

    def _listen(self) -> None:
        try:
            while True:
                self._said[self._pipe.recv()].set()
        except (EOFError, OSError):
            os._exit(1)


class Mouth:
    """Appends events to a file."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(self, event: Event) -> None:
        """Write one event."""
        os.write(self._descriptor, event.model_dump_json().encode() + b"\n")


def main(spec_json: str, events_path: str, pipe: Connection) -> None:
    """Entry point of a worker process. Never raises: what goes wrong is said as ``failed``."""
    os.dup2(2, 1)  # whatever a workload prints must not get into the results on standard output
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is the parent's to handle
    mouth = Mouth(events_path)
    parent = Parent(pipe)
    try:
        work(RunSpec.model_validate_json(spec_json), mouth.say, lambda: parent.wait_for(GO))
        parent.wait_for(BYE)  # a process that is gone can't be read any more
    except BaseException as error:
        mouth.say(
            Failed(
                at_ns=time.monotonic_ns(),
                out_of_memory=is_out_of_memory(error),
                error=f"{type(error).__name__}: {error}",
                traceback=portable(traceback.format_exc()),
            )
        )
        os._exit(1)


def portable(text: str) -> str:
    """A traceback without the folders of this machine: the set that it goes into may be published."""
    for folder in sorted({os.getcwd(), *filter(None, sys.path)}, key=len, reverse=True):
        text = text.replace(folder.rstrip(os.sep) + os.sep, "")
    return text


def work(spec: RunSpec, say: Callable[[Event], None], ready: Callable[[], None]) -> None:
    """Do the run. ``ready`` returns when the meter is running."""
    import torch

    from harness.methods.base import METHODS
    from harness.run.count import count
    from harness.run.train import Loop, make_optimizer
    from harness.workloads.base import WORKLOADS

    if spec.recipe.threads is not None:
        torch.set_num_threads(spec.recipe.threads)
    counted = count(spec)
    torch.manual_seed(spec.seed)
    if spec.protocol is Protocol.COUNT:
        workload = WORKLOADS.get(spec.workload)()
        say(_started(spec, "none", workload.parameters(spec.model), {}))
        say(counted)
        say(Finished(at_ns=time.monotonic_ns(), steps=0, examples=0))
        return
    device = torch.device(spec.device)
    task = WORKLOADS.get(spec.workload)().build(spec, device)
    if spec.recipe.compile:
        task.compile()
    optimizer = make_optimizer(task.model, spec.recipe)
    parameters = sum(p.numel() for p in task.model.parameters())
    controller = METHODS.get(spec.method)().attach(spec, task, optimizer)
    loop = Loop(spec, task, controller, optimizer, device, say)
    task.model.train()
    say(_started(spec, device_id(device), parameters, _facts(device)))
    say(counted)
    ready()
    loop.run()


def _started(spec: RunSpec, device: str, parameters: int, facts: dict[str, Any]) -> Started:
    return Started(
        at_ns=time.monotonic_ns(),
        pid=os.getpid(),
        wall_clock=datetime.now(UTC).isoformat(timespec="milliseconds"),
        device=device,
        parameters=parameters,
        fingerprint=facts,
    )


def _facts(device: Any) -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"threads": torch.get_num_threads()}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "cuda": torch.version.cuda,
        }
    return facts


def device_id(device: Any) -> str:
    """ "cpu", or the GPU's UUID as NVML writes it (``GPU-...``)."""
    if device.type != "cuda":
        return "cpu"
    import torch

    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on the card."""
    if isinstance(error, MemoryError):
        return True
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
