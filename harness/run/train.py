"""The training loop, one for every arm, workload and device.

``train`` is a whole training; ``steady`` measures a few steps of every phase of one. Both say what
they do as events, and synchronise the device only at the edges of a window.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from harness.methods.base import Controller
from harness.run.events import CHARGED, Evaluated, Event, Finished, Progress, Window, WindowKind
from harness.run.jitter import Jitter
from harness.suite.spec import Protocol, Recipe, RunSpec
from harness.workloads.base import Task

Say = Callable[[Event], None]

STEADY_WARMUP_STEPS = 2
"""Steps run and thrown away at the head of each steady phase: allocator, caches, lazy kernels."""

STEADY_PACE_STEPS = 3
"""Further steps of the warm-up that are timed, where a phase is to be measured for a number of seconds."""

PROGRESS_INTERVAL_S = 0.5


class DivergedError(RuntimeError):
    """The loss is not a finite number any more."""


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW, fused; weight decay on matrices only, as usual for transformers."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=recipe.learning_rate, betas=recipe.betas, fused=True
    )


class Loop:
    """One run's loop: the task, the method at work on it, the optimizer, and a mouth."""

    def __init__(
        self,
        spec: RunSpec,
        task: Task,
        controller: Controller,
        optimizer: torch.optim.Optimizer,
        device: torch.device,
        say: Say,
    ) -> None:
        self.spec = spec
        self.recipe = spec.recipe
        self.task = task
        self.controller = controller
        self.optimizer = optimizer
        self.device = device
        self.say = say
        self._last_progress = 0.0
        self._peak_bytes = 0
        self._jitter = Jitter(self.recipe.jitter_s, spec.run_id, device) if self.recipe.jitter_s else None

    def run(self) -> None:
        """Run the spec's protocol to its end."""
        if self.spec.protocol is Protocol.STEADY:
            steps = self._steady()
        else:
            steps = self._train()
        notes = self.controller.finish()
        if self._jitter is not None:
            notes = (*notes, self._jitter.note)
        if self.spec.protocol is Protocol.TRAIN:
            self._evaluate(steps, final=True)
        self.say(
            Finished(
                at_ns=time.monotonic_ns(),
                steps=steps,
                examples=steps * self.task.examples_per_step,
                peak_memory_bytes=self._peak_bytes or None,
                notes=notes,
            )
        )

    def _train(self) -> int:
        step = 0
        for stop in evaluation_steps(self.recipe):
            while step < stop:
                if self.controller.due(step):
                    with self._window(WindowKind.PROBE, step, 0):
                        activity = self.controller.begin_step(step)
                    if activity is not None:
                        self.say(activity)
                until = next((s for s in range(step + 1, stop) if self.controller.due(s)), stop)
                until = min(until, self._phase_end(step))
                with self._window(WindowKind.TRAIN, step, until - step):
                    for current in range(step, until):
                        loss = self._step(current)
                        self._report(current, loss)
                step = until
            self._check_finite(step, loss)
            self._evaluate(step, final=False)
        return step

    def _steady(self) -> int:
        done = 0
        first = 0
        for index, phase in enumerate(self.spec.phases):
            with self._window(WindowKind.WARMUP, done, STEADY_WARMUP_STEPS, index):
                self.controller.enter_phase(index)
                for _ in range(STEADY_WARMUP_STEPS):
                    loss = self._step(first, batch=done)
                    done += 1
            sampled = self.recipe.sampled_steps
            if self.recipe.sampled_seconds:
                sampled = max(sampled, self._steps_for_seconds(done, first, index))
                done += STEADY_PACE_STEPS
            with self._window(WindowKind.TRAIN, done, sampled, index):
                for _ in range(sampled):
                    loss = self._step(first, batch=done)
                    self._report(done, loss)
                    done += 1
            if phase.probes:
                self.controller.probe()  # the first one pays for lazy set-up
                with self._window(WindowKind.PROBE, done, 0, index):
                    self.controller.probe()
            self._check_finite(done, loss)
            first += phase.steps
        return done

    def _steps_for_seconds(self, done: int, first: int, phase: int) -> int:
        """Steps that last ``sampled_seconds`` at the pace of a few warm ones.

        Decided before the window begins, so that nothing in it waits for the device or looks at the clock. Arms
        with shorter steps take more of them, and are compared by the energy of one.
        """
        with self._window(WindowKind.WARMUP, done, STEADY_PACE_STEPS, phase):
            began = time.monotonic()
            for step in range(done, done + STEADY_PACE_STEPS):
                self._step(first, batch=step)
            synchronize(self.device)
            pace_s = (time.monotonic() - began) / STEADY_PACE_STEPS
        return math.ceil(self.recipe.sampled_seconds / pace_s)

    def _step(self, step: int, batch: int | None = None) -> Tensor:
        """One optimizer step at the learning rate of ``step``."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate_at(step)
        loss = self.loss(self.task.batch(step if batch is None else batch))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.task.model.parameters(), self.recipe.clip_norm)
        self.controller.before_optimizer(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.controller.end_step(step)
        if self._jitter is not None:
            self._jitter.delay()
        return loss.detach()

    def loss(self, batch: object) -> Tensor:
        """The task's loss under the recipe's precision."""
        with autocast(self.device, self.recipe):
            return self.task.loss(batch)

    def _evaluate(self, step: int, *, final: bool) -> None:
        with (
            self._window(WindowKind.EVALUATE, step, 0),
            autocast(self.device, self.recipe),
        ):
            result = self.task.evaluate(final=final)
        self.say(
            Evaluated(
                at_ns=time.monotonic_ns(),
                step=step,
                examples=step * self.task.examples_per_step,
                metrics=result.metrics,
                standard_errors=result.standard_errors,
                final=final,
            )
        )

    @contextmanager
    def _window(self, kind: WindowKind, first_step: int, steps: int, phase: int | None = None) -> Iterator[None]:
        synchronize(self.device)
        if kind in CHARGED:
            reset_peak_memory(self.device)
        start = time.monotonic_ns()
        yield
        synchronize(self.device)
        end = time.monotonic_ns()
        if kind in CHARGED:
            self._peak_bytes = max(self._peak_bytes, peak_memory_bytes(self.device))
        self.say(
            Window(
                kind=kind,
                start_ns=start,
                end_ns=end,
                phase=self._phase_of(first_step) if phase is None else phase,
                first_step=first_step,
                steps=steps,
            )
        )

    def _phase_of(self, step: int) -> int:
        """Index of the phase that step ``step`` belongs to; the last one after the end."""
        end = 0
        for index, phase in enumerate(self.spec.phases):
            end += phase.steps
            if step < end:
                return index
        return len(self.spec.phases) - 1

    def _phase_end(self, step: int) -> int:
        return sum(phase.steps for phase in self.spec.phases[: self._phase_of(step) + 1])

    def _report(self, step: int, loss: Tensor) -> None:
        now = time.monotonic()
        if now - self._last_progress < PROGRESS_INTERVAL_S:
            return
        self._last_progress = now
        # Reading a loss from a GPU would make it wait in mid-window; there the curve has to do.
        value = loss.item() if self.device.type == "cpu" else None
        if value is not None and not math.isfinite(value):
            self._check_finite(step, loss)
        self.say(Progress(at_ns=time.monotonic_ns(), step=step + 1, steps=self.recipe.steps, loss=value))

    def _check_finite(self, step: int, loss: Tensor) -> None:
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the loss is {loss.item()} at step {step}; a lower learning rate than "
                f"{self.recipe.learning_rate:g} may help (recipe.learning_rate)"
            )


def autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Products in bf16 unless the recipe says fp32. Under pure-bf16 it keeps the loss, say, in fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision != "fp32")


def evaluation_steps(recipe: Recipe) -> list[int]:
    """Numbers of steps after which the learning curve has a point; the last is ``recipe.steps``."""
    points = min(recipe.evaluations, recipe.steps)
    return [round(recipe.steps * (i + 1) / points) for i in range(points)]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    """Start a new peak on the GPU, so that evaluation's is not taken for training's."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: torch.device) -> int:
    """Highest memory in use: allocated on the GPU since the last reset, or resident in the process so far."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
