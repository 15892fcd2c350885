"""What a suite file refers to: workload, sizes, methods and their options, arms, meter, claims, factors.

Every check looks at the values as written, so that it works beside mistakes of form elsewhere.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.judge.claims import load_claims
from harness.judge.footprint import prices
from harness.judge.grid import intensity
from harness.meter.base import METERS
from harness.methods.base import METHODS, Method
from harness.registry import Registry
from harness.suite.problems import KeyPath, SuiteError, unknown
from harness.suite.source import Source
from harness.suite.spec import Json, Protocol, Recipe, levels_text
from harness.suite.validate import field_problems, options_problems
from harness.types import UserError
from harness.workloads.base import WORKLOADS, Workload

ARM_KEYS = ("method", "match", "options")


def _get(source: Source, registry: Registry[Any], name: Any, path: KeyPath) -> Any:
    """The registered class, or ``None`` with the reason reported."""
    if not isinstance(name, str):
        return None
    if name not in registry.names():
        source.report(path, unknown(registry.kind, name, registry.names()), unusable=True)
        return None
    try:
        return registry.get(name)
    except Exception as error:  # a broken plug-in is a finding about the plug-in, whatever it raised
        source.report(path, f"{registry.kind} {name!r} can't be loaded: {error}", unusable=True)
        return None


class Checker:
    """Walks the values of a file; problems go to its :class:`Source`."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.data: dict[str, Any] = source.data
        self.arms = _arm_values(self.data.get("arms"))
        self.workload: Workload | None = None

    def check(self) -> None:
        """All checks."""
        self._workload()
        for name, arm in self.arms.items():
            self._arm(name, arm)
        self._cycles()
        baseline = self.data.get("baseline", "dense")
        if not self._arm_reference(baseline, ("baseline",)):
            baseline = None  # said already
        blocks: dict[tuple[str, int, str, str], int] = {}
        for index, experiment in enumerate(_list(self.data.get("experiments"))):
            if isinstance(experiment, dict):
                self._experiment(("experiments", index), experiment, baseline)
                self._blocks(index, experiment, blocks)
        self._recipe(("recipe",), self.data.get("recipe"))
        self._meter()
        self._footprint()
        self._claims()

    def _workload(self) -> None:
        found: type[Workload] | None = _get(self.source, WORKLOADS, self.data.get("workload"), ("workload",))
        options = _dict(self.data.get("workload_options"))
        if found is None:
            return
        self.workload = found()
        paths: dict[str, KeyPath] = {key: ("workload_options", key) for key in options}
        options_problems(self.source, found.Options, options, ("workload_options",), paths)

    def _method_of(self, name: str) -> str | None:
        method = self.arms.get(name, {}).get("method", name)
        return method if isinstance(method, str) else None

    def _arm(self, name: str, arm: Json) -> None:
        path: KeyPath = ("arms", name) if isinstance(self.data.get("arms"), dict) else ("arms",)
        if "method" in arm and not isinstance(arm["method"], str):
            return
        at = (*path, "method") if (*path, "method") in self.source.places else path
        if "method" not in arm and name not in METHODS.names():
            self.source.report(
                at,
                f"{unknown('method', name, METHODS.names())}; name the arm's method with 'method: ...'",
                unusable=True,
            )
            return
        method: type[Method] | None = _get(self.source, METHODS, self._method_of(name), at)
        if method is None:
            return
        inline = {key: value for key, value in arm.items() if key not in ARM_KEYS}
        nested = _dict(arm.get("options"))
        paths: dict[str, KeyPath] = {key: (*path, key) for key in inline}
        for key in nested:
            if key in inline:
                self.source.report((*path, "options", key), f"appears twice, also as {name}.{key}", unusable=True)
            paths[key] = (*path, "options", key)
        options_problems(self.source, method.Options, {**inline, **nested}, path, paths)
        self._match(method, name, arm, path)

    def _match(self, method: type[Method], name: str, arm: Json, path: KeyPath) -> None:
        match = arm.get("match")
        at = (*path, "match")
        if method.matches and match is None:
            self.source.report(
                path, f"method {method.name!r} spends the FLOPs of another arm: name it with 'match: ARM'"
            )
        elif match is not None and not (method.matches or method.may_match):
            self.source.report(at, f"method {method.name!r} does not match another arm; take it away")
        elif match == name:
            self.source.report(at, "an arm can't match itself", unusable=True)
        else:
            self._arm_reference(match, at)

    def _arm_reference(self, name: Any, path: KeyPath) -> bool:
        """Whether ``name`` is an arm of the file or a method that needs no entry."""
        if not isinstance(name, str):
            return False
        if name in self.arms:
            return True
        if name not in METHODS.names():
            known = [*self.arms, *(method for method in METHODS.names() if method not in self.arms)]
            self.source.report(path, unknown("arm", name, known), unusable=True)
            return False
        method: type[Method] | None = _get(self.source, METHODS, name, path)
        if method is not None and method.matches:
            self.source.report(
                path, f"arm {name!r} needs an entry under arms that says which arm it matches", unusable=True
            )
        return method is not None

    def _cycles(self) -> None:
        for name in self.arms:
            seen = [name]
            while isinstance(following := self.arms.get(seen[-1], {}).get("match"), str) and following not in seen:
                seen.append(following)
            if following == name and len(seen) > 1 and name == min(seen):
                chain = " -> ".join([*seen, name])
                self.source.report(("arms", name, "match"), f"arms match each other in a circle: {chain}")

    def _experiment(self, path: KeyPath, experiment: Json, baseline: Any) -> None:
        protocol, seeds = experiment.get("protocol"), experiment.get("seeds")
        if protocol in ("train", "steady") and "seeds" not in experiment:
            self.source.report((*path, "seeds"), f"is missing; a {protocol} experiment needs seeds, such as 'seeds: 3'")
        if protocol == Protocol.COUNT.value and _count_of(seeds) > 1:
            self.source.report((*path, "seeds"), "FLOPs are the same for every seed; take it away")
        self._sizes(path, experiment.get("sizes"))
        self._recipe((*path, "recipe"), experiment.get("recipe"))
        self._factors((*path, "factors"), _dict(experiment.get("factors")), _dict(experiment.get("recipe")))
        options = _dict(experiment.get("options"))
        if self.workload is not None and options:
            whole = {**_dict(self.data.get("workload_options")), **options}
            paths: dict[str, KeyPath] = {key: ("workload_options", key) for key in whole}
            paths |= {key: (*path, "options", key) for key in options}
            options_problems(self.source, self.workload.Options, whole, (*path, "options"), paths)
        self._takes_part(path, experiment, baseline)

    def _sizes(self, path: KeyPath, sizes: Any) -> None:
        if self.workload is None:
            return
        known = self.workload.sizes()
        for index, size in enumerate(_list(sizes)):
            if isinstance(size, str) and size not in known and not self._has(size):
                self.source.report((*path, "sizes", index), unknown("size", size, known))

    def _has(self, size: str) -> bool:
        """Whether the workload's rule gives a model for a size between its rungs."""
        assert self.workload is not None
        try:
            self.workload.model(size, self.workload.Options().model_dump(mode="json"))
        except (UserError, ValidationError):
            return False
        return True

    def _takes_part(self, path: KeyPath, experiment: Json, baseline: Any) -> None:
        listed = experiment.get("arms")
        named = listed is not None
        arms = _list(listed) if named else list(self.arms)
        here = (*path, "arms") if named else path
        good = [
            arm
            for index, arm in enumerate(arms)
            if (self._arm_reference(arm, (*here, index)) if named else isinstance(arm, str))
        ]
        if not arms and not named:
            self.source.report(path, "has no arms: define some under arms, or list methods here")
            return
        if isinstance(baseline, str) and baseline not in arms and len(good) == len(arms):
            self.source.report(here, f"the baseline {baseline!r} must take part: pairs are made with it")
        for name in good:
            match = self.arms.get(name, {}).get("match")
            known = isinstance(match, str) and (match in self.arms or match in METHODS.names())
            if known and match != name and match not in arms:
                self.source.report(here, f"arm {name!r} matches {match!r}, which must take part too")

    def _blocks(self, index: int, experiment: Json, seen: dict[tuple[str, int, str, str], int]) -> None:
        conditions = _conditions(experiment.get("factors"))
        protocol = experiment.get("protocol")
        seeds = experiment.get("seeds", 1)
        numbers = range(seeds) if _count_of(seeds) and isinstance(seeds, int) and seeds <= 1000 else _list(seeds)
        for at, size in enumerate(_list(experiment.get("sizes"))):
            if not isinstance(size, str) or not isinstance(protocol, str):
                continue
            for seed, levels in product(numbers, conditions):
                if not isinstance(seed, int):
                    continue
                first = seen.setdefault((size, seed, protocol, levels), index)
                if first != index:
                    where = f"{protocol} at {size}, seed {seed}{levels and ', '}{levels}"
                    self.source.report(
                        ("experiments", index, "sizes", at), f"{where} is in experiments[{first}] already"
                    )
                    break

    def _factors(self, path: KeyPath, factors: Json, recipe: Json) -> None:
        """Levels are values of keys of the recipe that the experiment does not also fix."""
        for name, levels in factors.items():
            for index, level in enumerate(_list(levels)):
                field_problems(self.source, Recipe, {name: level}, {name: (*path, name, index)})
                if name not in Recipe.model_fields:
                    break
            if name in recipe:
                self.source.report((*path, name), f"is fixed by the experiment's recipe too ({recipe[name]!r})")

    def _recipe(self, path: KeyPath, recipe: Any) -> None:
        values = _dict(recipe)
        field_problems(self.source, Recipe, values, {key: (*path, key) for key in values})
        shares = [values.get("warmup_share"), values.get("decay_share")]
        if all(isinstance(share, int | float) for share in shares) and sum(float(share or 0) for share in shares) > 1:
            self.source.report(path, "warmup_share + decay_share must be at most 1")

    def _meter(self) -> None:
        meter = self.data.get("meter", "auto")
        if not isinstance(meter, str):
            return
        name, _, argument = meter.partition(":")
        if name not in ("auto", *METERS.names()):
            self.source.report(("meter",), unknown("meter", name, ["auto", *METERS.names()]))
            return
        wanted = "" if name == "auto" else METERS.get(name).argument
        if wanted and not argument:
            self.source.report(("meter",), f"meter {name!r} needs an argument; write {name}:{wanted}")
        elif argument and not wanted:
            self.source.report(("meter",), f"meter {name!r} takes no argument; write just {name}")
        elif argument:
            try:
                METERS.get(name).options_of(meter_request(meter, self.folder).partition(":")[2])
            except UserError as error:
                self.source.report(("meter",), str(error))

    def _footprint(self) -> None:
        footprint = _dict(self.data.get("footprint"))
        region, price = footprint.get("region"), footprint.get("price")
        if isinstance(region, str):
            try:
                intensity(region)
            except UserError as error:
                self.source.report(("footprint", "region"), str(error))
        if isinstance(price, str) and price not in prices():
            self.source.report(("footprint", "price"), unknown("price", price, prices()))
        pue = footprint.get("pue")
        if isinstance(pue, int | float) and pue != 1 and "pue_source" not in footprint:
            self.source.report(("footprint", "pue"), "a PUE other than 1 needs its source: 'pue_source: ...'")

    def _claims(self) -> None:
        claims = self.data.get("claims")
        if not isinstance(claims, str):
            return
        try:
            load_claims(claims_name(claims, self.folder))
        except SuiteError as error:  # the claims file has mistakes of its own, with places of its own
            self.source.problems.update(dict.fromkeys(error.details))
        except UserError as error:
            self.source.report(("claims",), str(error))


def claims_name(claims: str, folder: Path) -> str:
    """A shipped claims file by name, or the path of one that lies beside the suite."""
    return str(folder / claims) if claims.endswith((".yaml", ".yml")) else claims


def meter_request(meter: str, folder: Path) -> str:
    """``NAME:ARGUMENT`` with an argument that is a file beside the suite turned into that file's path."""
    name, _, argument = meter.partition(":")
    beside = folder / argument
    return f"{name}:{beside}" if argument and os.path.isfile(beside) else meter  # no error for a name that can't be


def _arm_values(arms: Any) -> dict[str, Json]:
    """Arms by name, whatever form they are written in; what is no arm becomes an empty one."""
    if isinstance(arms, list):
        return {arm: {} for arm in arms if isinstance(arm, str)}
    return {name: {"method": arm} if isinstance(arm, str) else _dict(arm) for name, arm in _dict(arms).items()}


def _dict(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _conditions(factors: Any) -> list[str]:
    """Every combination of levels, as text, in an order that does not hang on that of the file."""
    names = sorted(name for name, levels in _dict(factors).items() if isinstance(levels, list))
    return [levels_text(dict(zip(names, levels, strict=True))) for levels in product(*(factors[n] for n in names))]


def _count_of(seeds: Any) -> int:
    """How many seeds a value asks for; 0 where it makes no sense."""
    if isinstance(seeds, list):
        return len(seeds)
    return max(0, seeds) if isinstance(seeds, int) and not isinstance(seeds, bool) else 0
