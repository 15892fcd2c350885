"""What is known of every unit, and which units are active next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sat.config import SATConfig
from sat.distributed import whole
from sat.parts import Part
from sat.score import UnitScores
from sat.select import allocate, choose, generator, place, rise
from sat.units import counts_allowed, round_half_up, units_kept


@dataclass
class History:
    """What is remembered of one part's units between decisions."""

    ever: set[int]  # have been active in training
    waiting: list[int]  # decisions spent outside in a row
    score: list[float]  # by the latest probe, or a moving average (Taylor); 0 where nothing is known
    observed: list[bool]  # by Taylor

    def book(self, active: Sequence[int]) -> None:
        """After a decision: ``active`` train now, the others wait one decision longer."""
        self.ever |= set(active)
        self.waiting = [0 if unit in active else past + 1 for unit, past in enumerate(self.waiting)]

    def state(self) -> dict[str, list[Any]]:
        """Plain values."""
        return {
            "ever": sorted(self.ever),
            "waiting": list(self.waiting),
            "score": list(self.score),
            "observed": list(self.observed),
        }


class Choice:
    """Keeps the histories of all parts and chooses their active sets."""

    def __init__(self, model: nn.Module, parts: Sequence[Part], config: SATConfig, total_steps: int) -> None:
        self._model = model
        self._parts = parts
        self._config = config
        self._total_steps = total_steps
        self.threshold: float | None = None  # of the latest decision, score per FLOP over all parts
        self.histories = {
            part.name: History(set(), [0] * part.units, [0.0] * part.units, [False] * part.units) for part in parts
        }

    def observe(self, gradient_scale: float = 1.0) -> None:
        """A Taylor observation of the active units, from this step's gradients, which are too large by a scale."""
        found: list[tuple[Part, Tensor]] = []
        for part in self._parts:
            products = part.products()
            if products is not None and products.device.type != "meta":
                found.append((part, (whole(products).float() / gradient_scale).square()))
        if not found:
            return
        values = iter(torch.cat([squares for _, squares in found]).tolist())  # waits for the device once
        for part, _ in found:
            history = self.histories[part.name]
            for unit, value in zip(part.active, values, strict=False):
                past = self._config.smoothing if history.observed[unit] else 0.0
                history.score[unit] = past * history.score[unit] + (1.0 - past) * value
                history.observed[unit] = True

    def update(self, probed: Mapping[str, UnitScores], step: int) -> None:
        """Bring the scores up to date. On device ``meta`` there are no numbers: scores stay as they are."""
        meta = next(self._model.parameters()).device.type == "meta"
        by_magnitude = self._config.score == "magnitude" and not meta
        found = {part.name: part.magnitudes() for part in self._parts} if by_magnitude else {}
        for part in self._parts:
            history = self.histories[part.name]
            if self._config.score == "random":
                draw = generator(self._config.seed, step, f"{part.name}/score")
                history.score = [draw.random() for _ in range(part.units)]
            elif part.name in found:
                history.score = whole(found[part.name]).tolist()
            elif part.name in probed and not meta:
                history.score = (probed[part.name].score / part.unit_flops).tolist()  # per FLOP
            if not all(map(math.isfinite, history.score)):
                raise ValueError(
                    f"the scores of {part.name} before step {step} are not finite, so units can't be ranked: weights, "
                    "or the loss of a probe or its gradients, have become nan or infinite"
                )

    def counts(self, share: float, step: int, *, started: bool, free: bool) -> dict[str, int]:
        """How many units every part keeps at ``share``, by the threshold of the configuration.

        Where nothing has a score yet (device ``meta``, a shape that is only timed), a global threshold has nothing to
        rank, and every part keeps the share.
        """
        config = self._config
        kept = {part.name: units_kept(part.units, share, self._floor(part), config.buckets) for part in self._parts}
        self.threshold = None
        known = any(any(history.score) for history in self.histories.values())
        if config.threshold == "site" or share == 1.0 or not known:
            return kept
        scores, costs, allowed = [], [], []
        grow_only = free or config.regime == "growing"
        for part in self._parts:
            before = part.active if started else ()
            least = self._floor(part)
            if config.regime == "growing" and not free:
                least = max(least, len(before))
            elif before:
                leaving = 0 if free else round_half_up(config.swap_share_at(step, self._total_steps) * len(before))
                least = max(least, min(len(before), kept[part.name]) - leaving)
            values = self._scores(part, before)
            if before and not grow_only and config.score != "random":
                values = [v * (1 + config.hysteresis) if u in before else v for u, v in enumerate(values)]
            inside = set(before) if grow_only else set()
            order = sorted(range(part.units), key=lambda unit: (unit not in inside, -values[unit], unit))
            # what a probe measures is per FLOP already; a random draw is to favour no kind of unit
            if config.needs_probe or config.score == "random":
                values = [value * part.unit_flops for value in values]
            scores.append([values[unit] for unit in order])
            costs.append(part.unit_flops)
            every = counts_allowed(part.units, self._floor(part), config.buckets)
            allowed.append([count for count in every if count >= least])
        budget = share * sum(part.units * part.unit_flops for part in self._parts)
        found, self.threshold = allocate(scores, costs, allowed, budget)
        return {part.name: count for part, count in zip(self._parts, found, strict=True)}

    def chosen(self, part: Part, before: Sequence[int], keep: int, step: int, free: bool) -> tuple[int, ...]:
        """The ``keep`` active units of ``part``; ``before`` are active now, none at the start.

        ``free``: by what is known, without regard to the regime, and without taking any unit out in exchange.
        """
        config = self._config
        if config.regime == "narrowing":
            frozen = part.units - len(before or range(part.units))
            limit = part.units - keep
            by_schedule = free or config.score == "order"
            scores = self.histories[part.name].score
            return tuple(range(limit if by_schedule else rise(scores, frozen, limit), part.units))
        if config.score == "order":
            return place(part.units, before, keep, spread=config.spreads, pinned=part.pinned)
        random = config.score == "random"  # the control: no memory, no preference for what is inside
        return choose(
            self._scores(part, before),
            before,
            keep,
            grow_only=free or config.regime == "growing",
            swap_share=config.swap_share_at(step, self._total_steps),
            hysteresis=0.0 if random else config.hysteresis,
            explore=config.explore,
            rng=generator(config.seed, step, f"{part.name}/explore"),
        )

    def _floor(self, part: Part) -> int:
        return max(self._config.floor, part.floor, len(part.pinned))

    def _scores(self, part: Part, before: Sequence[int]) -> list[float]:
        """Scores with the bonus of those that have waited; pinned units are above all.

        Taylor knows nothing of a unit that has never worked: it counts as the mean of those that have been observed.
        """
        history = self.histories[part.name]
        known = history.score
        if self._config.score == "taylor" and any(history.observed):
            seen = [score for score, observed in zip(known, history.observed, strict=True) if observed]
            mean = sum(seen) / len(seen)
            known = [score if observed else mean for score, observed in zip(known, history.observed, strict=True)]
        bonus = 0.0 if self._config.score == "random" else self._config.staleness
        scores = [
            score if unit in before else score * (1.0 + bonus * waited)
            for unit, (score, waited) in enumerate(zip(known, history.waiting, strict=True))
        ]
        for unit in part.pinned:
            scores[unit] = math.inf
        return scores

    def thresholds(self) -> dict[str, float | None]:
        """The lowest score kept, by part; ``None`` where units have no score or none may leave."""
        ranked = self._config.score != "order"
        return {part.name: self._threshold(part) if ranked else None for part in self._parts}

    def never_trained(self) -> dict[str, tuple[int, ...]]:
        """Units that have not been active yet, by part."""
        return {
            part.name: tuple(unit for unit in range(part.units) if unit not in self.histories[part.name].ever)
            for part in self._parts
        }

    def load(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        """Continue from :meth:`History.state` of every part."""
        for name, part in parts.items():
            self.histories[name] = History(
                set(part["ever"]), list(part["waiting"]), list(part["score"]), list(part["observed"])
            )

    def _threshold(self, part: Part) -> float | None:
        scores = self.histories[part.name].score
        return min((scores[unit] for unit in part.active if unit not in part.pinned), default=None)
