"""The controller: walks the schedule, probes and switches. One per model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sat.below import below
from sat.checks import check_parts, check_structure
from sat.choice import Choice
from sat.compiled import compiled_graphs
from sat.config import SATConfig, decisions
from sat.distributed import Ranks, Replicas, ShardedSite, checksums, prepare, settle
from sat.distributed.shards import Owners
from sat.entry import install
from sat.ledger import Ledger
from sat.memory import Memory, memory
from sat.optimizers import StepWatch, described, gradient_scale, overflowed
from sat.own_config import with_own_config
from sat.pace import Pace
from sat.parts import BypassedLayers, CompactSite, FrozenLayers, FrozenPrefix, Part, SkippedLayers
from sat.ramp import Ramp
from sat.rate import Rate
from sat.report import Report, Switch
from sat.score import Loss, UnitScores, gate_probe, taylor_probe
from sat.structure import Structure
from sat.tally import Tally

ATTACHED = "_sat_controller"
"""Attribute of a sparsified model that holds its controller."""

NO_LOSS = (
    "score {!r} probes the model: give sparsify_ a loss, a callable that returns the loss of probe micro-batch i, or "
    "choose score 'magnitude' or 'random'"
)

NO_TRACE = (
    "mode 'prefix' runs a part of loss(0) to see what lies below the layers: give sparsify_ a loss, a callable that "
    "returns the loss of micro-batch i"
)


class Controller:
    """SAT at work on one model. Made by :func:`sat.sparsify_`.

    A loop either calls :meth:`step` after ``optimizer.step()``, or, for finer control, ``begin_step`` when
    ``due``, ``before_optimizer`` and ``end_step`` around each step; not both.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        config: SATConfig,
        *,
        total_steps: int,
        loss: Loss | None,
        structure: Structure,
        process_group: ProcessGroup | None = None,
    ) -> None:
        check_structure(model, structure, config)
        if config.mode == "skip" and config.axis == "depth":
            structure = with_own_config(model, structure)
        self.model = model
        self.structure = structure
        self.optimizer = optimizer
        self.config = config
        self.total_steps = total_steps
        self.position = 0  # optimizer steps done
        self._loss = loss
        self._decisions = {decision.step: decision for decision in decisions(config, total_steps)}
        self._decided = -1
        self._observed = -1
        self._share = 1.0
        self._started = False
        self.is_plain = False  # inside :meth:`plain`
        self._at_finish: list[Callable[[], None]] = []
        self._trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self.ranks = Ranks(process_group)
        self.replicas = Replicas(self)
        self._owners = prepare(model, optimizer, config)
        if config.entry == "split" and optimizer is not None:
            described(optimizer)  # its moments are to be scaled: better refused now than at the expansion
        self.parts = _parts(model, structure, optimizer, config, self._owners, loss)
        check_parts(model, self.parts, config)
        self._choice = Choice(model, self.parts, config, total_steps)
        self.ramp = Ramp(config.ramp_steps, model)
        self.pace = Pace(self.parts, config.rewarm_steps, config.protect_steps, config.protect)
        self._rate = Rate(self._rate_factor)
        self._ledger = Ledger(model, optimizer, self.parts)
        self._listen()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy of the model has a controller and an optimizer of its own; hooks are not copied with an optimizer."""
        self.__dict__.update(state)
        self._listen()

    def _listen(self) -> None:
        """Hook into the optimizer's step."""
        optimizer, config = self.optimizer, self.config
        self._watch = StepWatch(optimizer) if optimizer is not None else None
        self._hook: RemovableHandle | None = None
        self.pace.attach(optimizer)
        if optimizer is not None and config.rate_exponent:
            self._rate.attach(optimizer)
        if optimizer is not None and config.score == "taylor" and config.mode == "skip":
            self._hook = optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, *_: Any) -> None:
        self.before_optimizer(self.position)

    def _rate_factor(self) -> float:
        return float(self.active_units**-self.config.rate_exponent)

    def due(self, step: int) -> bool:
        """Whether :meth:`begin_step` has a decision to make before ``step`` (0-based)."""
        return step in self._decisions and step != self._decided

    def begin_step(self, step: int) -> Switch | None:
        """Probe (where the score needs it) and switch, if a decision is due before ``step``.

        Returns the new state of affairs, or ``None`` where nothing was due.
        """
        self.position = step
        if not self.due(step):
            return None
        decision = self._decisions[step]
        probed = {}
        if decision.probe:
            with self._ledger.probing():
                probed = self.probe()
        self._decided = step
        with self._ledger.switching():
            return self._switch(decision.share, probed, step)

    def before_optimizer(self, step: int) -> None:
        """Between backward and the optimizer's step: Taylor observations, where the score needs them."""
        config = self.config
        wanted = config.score == "taylor" and config.mode == "skip" and step % config.observe_every == 0
        if not wanted or self._observed == step or (self.optimizer is not None and overflowed(self.optimizer)):
            return
        self._observed = step
        self._choice.observe(gradient_scale(self.optimizer) if self.optimizer is not None else 1.0)

    def end_step(self, step: int) -> None:
        """After the optimizer's step: the active units count as trained, returning units ramp up.

        Not to be called after a step that was left out (a gradient scaler leaves those out that overflow).
        """
        self.position = step + 1
        self._ledger.end_step()
        self.ramp.advance(self.parts)
        self.pace.advance()
        self.replicas.install()

    def step(self) -> Switch | None:
        """For a plain loop, after ``optimizer.step()``: closes this step and switches for the next if due.

        Where the optimizer took no step since the last call, nothing happens: a gradient scaler left it out, or
        gradients are still being accumulated.
        """
        if self._watch is not None and not self._watch.taken():
            return None
        self.end_step(self.position)
        return self.begin_step(self.position) if self.position < self.total_steps else None

    def probe(self) -> dict[str, UnitScores]:
        """One importance probe alone, changing nothing; empty where the score needs none.

        Raises:
            ValueError: no ``loss`` was given, or it has no gradient.
        """
        config = self.config
        if not config.needs_probe:
            return {}
        if self._loss is None:
            raise ValueError(NO_LOSS.format(config.score))
        settle(self.model)
        first, given = self._ledger.tally.probes * config.probe_batches, self._loss  # every probe sees data of its own

        def loss(index: int) -> Tensor:
            return given(first + index)

        if config.score == "taylor":
            frozen = [part for part in self.parts if isinstance(part, FrozenLayers)]
            known = self._trainable
            with self.replicas.quiet():
                return taylor_probe(
                    self.model, frozen, lambda p: known.get(p, False), loss, config.probe_batches, self.ranks.mean
                )
        gates = {part.name: self._gates(part) for part in self.parts}
        with self.ramp.suspended(self.parts), self.replicas.quiet():
            return gate_probe(self.model, self.parts, gates, loss, config.probe_batches, self.ranks.mean)

    def set_share(self, share: float) -> Switch:
        """Put the model into the shape of ``share`` without a probe: for counting and steady-state timing.

        Units are taken by what is known of them; the schedule and the regime are not consulted.

        Raises:
            ValueError: ``share`` outside 0..1.
        """
        return self._switch(share, {}, self.position, free=True)

    def memory(self) -> Memory:
        """Bytes of parameters, gradients, optimizer state and bank now, counted from their tensors."""
        return memory(self.model, self.optimizer, self.parts, self.config.bank == "host")

    @property
    def active_units(self) -> float:
        """Active units as a share of all."""
        return self._ledger.active_units

    def report(self) -> Report:
        """What has happened so far, counted; on CUDA this waits for the latest probe and switch."""
        return self._ledger.report(
            share=self._share,
            active={part.name: part.active for part in self.parts},
            never_trained=self._choice.never_trained(),
            thresholds=self._choice.thresholds(),
            global_threshold=self._choice.threshold,
            compiled_graphs=compiled_graphs(self.model),
        )

    def finish(self) -> Report:
        """Leave the final model of the regime in place, full and plain, and report. Called by ``densify_``.

        ``growing``: units that never entered enter now with a zero output, whatever ``entry`` is, so that the model
        stays what it was when it was last looked at (but where a norm follows the sum). ``persistent``: the output
        projections of inactive units are zeroed, so the full model computes what the active part computes.
        ``rotating`` with skipping: output projections are multiplied by the active share, as with dropout, since
        units were trained with that share of their fellows; those never trained are zeroed. Modes with a whole
        forward pass leave the weights as they are.
        """
        report = self.report()
        if any(len(part.active) < part.units for part in self.parts):
            self._complete()
        self.withdraw()
        return report

    def withdraw(self) -> None:
        """Take all of SAT off model and optimizer. The weights stay as they are, those that are out come in."""
        self.ramp.stop()
        self.pace.stop()
        self._rate.stop()
        for part in self.parts:
            part.switch(tuple(range(part.units)))
            part.release()
        self._ledger.close()
        self.replicas.remove()
        if self._hook is not None:
            self._hook.remove()
        if self._watch is not None:
            self._watch.remove()
        for attribute in (ATTACHED, "save_pretrained"):
            self.model.__dict__.pop(attribute, None)
        for remove in self._at_finish:
            remove()

    def at_finish(self, remove: Callable[[], None]) -> None:
        """Call ``remove`` when the model is plain again: for what was put on model and optimizer from outside."""
        self._at_finish.append(remove)

    @contextmanager
    def plain(self, *, states: bool = True, keep: bool = False) -> Iterator[None]:
        """The model with its plain names, shapes and configuration for a while; afterwards all is as before.

        ``states``: so is the optimizer's state, for a save of it. ``keep``: what is written to the weights stays.
        """
        if self.is_plain:  # a save inside a save
            yield
            return
        settle(self.model)
        with ExitStack() as stack:
            for part in self.parts:
                stack.enter_context(part.full(states=states, keep=keep))
            self.is_plain = True
            stack.callback(setattr, self, "is_plain", False)
            yield

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """The method of a sparsified ``transformers`` model: saves the plain, full model."""
        with self.plain(states=False):
            return type(self.model).save_pretrained(self.model, *args, **kwargs)  # type: ignore[attr-defined]

    def _complete(self) -> None:
        if self.config.regime == "growing":
            late = [part.name for part in self.parts if not part.enters_at_zero and len(part.active) < part.units]
            if late:
                warnings.warn(
                    f"{late[0]}: layers that never trained enter the final model, and change what it computes (their "
                    "norm follows the residual sum); let the schedule reach a share of 1 before sat.densify_",
                    stacklevel=4,
                )
            elif never := sum(map(len, self._choice.never_trained().values())):
                warnings.warn(
                    f"{never} of {sum(part.units for part in self.parts)} units have never trained, and do nothing in "
                    "the final model; let the schedule reach a share of 1 before sat.densify_",
                    stacklevel=4,
                )
            self._switch(
                1.0, {}, self.position, free=True, config=replace(self.config, entry="zero", entry_state="fresh")
            )
            return
        if self.config.whole_forward:
            return
        for part in self.parts:
            active = part.active
            inactive = [unit for unit in range(part.units) if unit not in active]
            pinned = len(part.pinned)  # these have always been there
            share = (len(active) - pinned) / max(1, part.units - pinned)
            part.switch(tuple(range(part.units)))
            if self.config.regime == "persistent":
                part.scale_outputs(inactive, 0.0)
                continue
            ever = self._choice.histories[part.name].ever
            part.scale_outputs([unit for unit in range(part.units) if unit not in ever], 0.0)
            part.scale_outputs(sorted(ever - set(part.pinned)), share)

    def state_dict(self) -> dict[str, Any]:
        """All that a resume needs, bit for bit; see :mod:`sat.checkpoint`."""
        from sat.checkpoint import save

        return save(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken: model, optimizer and controller; see :mod:`sat.checkpoint`.

        Raises:
            ValueError: the state is of another configuration, length or structure.
        """
        from sat.checkpoint import load

        load(self, state)

    def seconds(self) -> dict[str, float | None]:
        """Time that probes and switches took; :meth:`progress` holds what is counted."""
        return self._ledger.seconds()

    def progress(self) -> dict[str, Any]:
        """The controller's own part of :meth:`state_dict`: plain values."""
        return {
            "position": self.position,
            "decided": self._decided,
            "observed": self._observed,
            "share": self._share,
            "started": self._started,
            "ramp": self.ramp.state(),
            "pace": self.pace.state(),
            "threshold": self._choice.threshold,
            "tally": self._ledger.tally.state(),
            "parts": {
                part.name: {"active": list(part.active), **self._choice.histories[part.name].state()}
                for part in self.parts
            },
        }

    def resume(self, progress: Mapping[str, Any], tally: Tally) -> None:
        """Take over :meth:`progress`; model, optimizer and parts have been brought there already."""
        self.position = progress["position"]
        self._decided = progress["decided"]
        self._observed = progress["observed"]
        self._share = progress["share"]
        self._started = progress["started"]
        self._ledger.load(tally, progress["seconds"])
        self._choice.load(progress["parts"])
        self.pace.load(progress["pace"])
        self._choice.threshold = progress["threshold"]
        self.ramp.load(progress["ramp"], self.parts, next(self.model.parameters()).device)

    def check_ranks(self, *decision: object) -> None:
        """Compare with the other processes of the training what they must have in common.

        Raises:
            ValueError: settings, active units, their history, or (unless sharded) weights differ; the text says where.
        """
        if self.ranks.size > 1:
            agreed: dict[str, object] = {"settings": (self.config, self.total_steps, self.position, decision)}
            agreed |= {f"active units of {part.name}": part.active for part in self.parts}
            for name, past in self._choice.histories.items():  # scores are averaged, so these may differ
                agreed[f"history of {name}"] = {key: value for key, value in past.state().items() if key != "score"}
            if self._started and decision:
                agreed |= checksums(self.model)
            self.ranks.agree(agreed)

    def _gates(self, part: Part) -> list[float]:
        if isinstance(part, FrozenLayers):
            return [1.0] * part.units  # all of them run
        values = self.ramp.values(part)
        return [values.get(unit, 1.0) if unit in part.active else 0.0 for unit in range(part.units)]

    def _switch(
        self,
        share: float,
        probed: Mapping[str, UnitScores],
        step: int,
        *,
        free: bool = False,
        config: SATConfig | None = None,
    ) -> Switch:
        """Choose the active set of ``share`` by the present scores and install it, by the entry rule of ``config``."""
        settle(self.model)
        self.check_ranks(share, step, free)
        self._choice.update(probed, step)
        self.ranks.average(self._choice.histories)
        counts = self._choice.counts(share, step, started=self._started, free=free)
        entries = exits = returns = 0
        device = next(self.model.parameters()).device
        came: dict[str, list[int]] = {}
        stayed: dict[str, list[int]] = {}
        for part in self.parts:
            history = self._choice.histories[part.name]
            before = part.active if self._started else ()
            active = self._choice.chosen(part, before, counts[part.name], step, free)
            entering = set(active) - set(before)
            fresh = sorted(entering - history.ever)
            returning = sorted(entering & history.ever)
            gated = install(part, active, before, fresh, config or self.config, self.optimizer)
            if before and self.config.mode == "skip":
                self.ramp.start(part, returning, device, gated)
            history.book(active)
            if before:
                came[part.name], stayed[part.name] = [*fresh, *returning], sorted(set(active) & set(before))
            entries += len(fresh)
            returns += len(returning)
            exits += len(set(before) - set(active))
        self.pace.start(came, stayed)
        self._started = True
        self._share = share
        self._ledger.decide(
            step,
            share,
            trained_only=self.config.whole_forward,
            entries=entries,
            exits=exits,
            returns=returns,
            probed=bool(probed),
            count=not free,
        )
        return Switch(
            step, share, self.active_units, self._ledger.tally.active_parameters, entries, exits, returns, bool(probed)
        )


def _parts(
    model: nn.Module,
    structure: Structure,
    optimizer: Optimizer | None,
    config: SATConfig,
    owners: Owners,
    loss: Loss | None,
) -> list[Part]:
    kept: dict[str, Any] = {"host_bank": config.bank == "host", "entry_moment": config.entry_moment}
    if config.axis == "width" and owners:
        return [ShardedSite(site, optimizer, owners, **kept) for site in structure.parts]
    if config.axis == "width":
        return [CompactSite(site, optimizer, **kept) for site in structure.parts]
    if config.mode == "prefix":
        if loss is None:
            raise ValueError(NO_TRACE)
        return [FrozenPrefix(structure.stacks, below(model, structure.stacks, loss))]
    if config.whole_forward:
        kind = FrozenLayers if config.mode == "freeze" else BypassedLayers
        return [kind(stack) for stack in structure.stacks]
    return [SkippedLayers(stack, optimizer, config.bank == "host") for stack in structure.stacks]
