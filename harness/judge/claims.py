"""Claims files: what is claimed, written down before the run.

A claims file is YAML with ``name``, ``title``, ``source`` and ``claims``, a list of
:class:`~harness.judge.types.Claim`. Files that ship are called by name (``sat-article``), others by path.

Which keys a metric tests:

=====================  ==========================================================================
``energy_saving``      ``at_least`` (share), and the quality condition where one is given
``cost_saving``        likewise, on paired wall-clock time
``flops_saving``       likewise, on exact counts
``energy_saving_slope``  ``at_least`` (share per decade of parameters); strictly above it
``quality``            ``quality_metric`` and ``quality_margin``
``active_share``       ``at_least`` and ``at_most`` (share of parameters)
``re_entry``           ``at_least`` (number of returns)
``hardware``           ``hardware``, names that must be found in a measured record
``none``               nothing: the row says what a test ``needs``
=====================  ==========================================================================

``at_most`` of a saving is the upper end of a claimed band: it is shown, not tested.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.judge.types import Claim
from harness.registry import did_you_mean
from harness.suite.source import Source, read_text
from harness.types import UserError

_KEYS = ("name", "title", "source", "claims")
_SAVINGS = ("energy_saving", "cost_saving", "flops_saving")


def shipped() -> list[str]:
    """Names of the claims files that ship with the harness."""
    found = (entry.name for entry in files("harness.judge.data").iterdir())
    names = [name.removesuffix(".yaml") for name in found if name.endswith(".yaml")]
    return sorted(set(names) - {"prices", "context"})


def load_claims(name: str) -> tuple[Claim, ...]:
    """Claims of a shipped file by name, or of any file by path (it ends in ``.yaml`` or ``.yml``).

    Raises:
        UserError: no such file; or everything that is wrong with it, each with file, line and entry.
    """
    if not name.endswith((".yaml", ".yml")):
        if name not in shipped():
            raise UserError(
                f"unknown claims file {name!r}{did_you_mean(name, shipped())}; shipped: {', '.join(shipped())}; "
                "a file of your own is named by its path, ending in .yaml"
            )
        resource = files("harness.judge.data") / f"{name}.yaml"
        return parse_claims(resource.read_bytes(), f"{name}.yaml")
    path = Path(name)
    try:
        return parse_claims(path.read_bytes(), name)
    except OSError as error:
        raise UserError(f"claims file {name}: can't be read: {error.strerror}") from error


def parse_claims(raw: bytes, name: str) -> tuple[Claim, ...]:
    """Claims from the bytes of a file; ``name`` is what errors call it."""
    if not raw.strip():
        raise UserError(f"{name}: is empty; a claims file needs a list 'claims'")
    source = read_text(raw, name)
    for key in source.data:
        if key not in _KEYS:
            source.report((key,), f"unknown key{did_you_mean(str(key), _KEYS)}; known: {', '.join(_KEYS)}")
    entries = source.data.get("claims")
    if not isinstance(entries, list) or not entries:
        source.report(("claims",), "must be a list with at least one claim")
        entries = []
    claims: list[Claim] = []
    seen: dict[str, str] = {}
    for index, entry in enumerate(entries):
        claim = _claim(source, index, entry)
        if claim is None:
            continue
        where = source.place(("claims", index)).where
        if claim.id in seen:
            source.report(("claims", index, "id"), f"claim {claim.id!r} is there already, at {seen[claim.id]}")
        seen.setdefault(claim.id, where)
        for what in _mistakes(claim):
            source.report(("claims", index), f"claim {claim.id!r}: {what}")
        claims.append(claim)
    source.raise_problems()
    return tuple(claims)


def _claim(source: Source, index: int, entry: Any) -> Claim | None:
    if not isinstance(entry, dict):
        source.report(("claims", index), "must be a mapping with id, text and metric")
        return None
    name = entry.get("id", f"number {index + 1}")
    try:
        return Claim.model_validate(entry)
    except ValidationError as error:
        for problem in error.errors():
            key = str(problem["loc"][0]) if problem["loc"] else ""
            if problem["type"] == "extra_forbidden":
                known = list(Claim.model_fields)
                what = f"unknown key {key!r}{did_you_mean(key, known)}; known: {', '.join(known)}"
            elif problem["type"] == "missing":
                what = f"{key!r} is missing"
            else:
                what = f"{key}: {problem['msg']}"
            source.report(("claims", index, key), f"claim {name!r}: {what}")
        return None


def _mistakes(claim: Claim) -> list[str]:
    """What pydantic can't see: keys that the metric needs, bounds that make no sense."""
    found = []
    tested = (*_SAVINGS, "energy_saving_slope", "active_share", "re_entry")
    if claim.metric in tested and claim.at_least is None:
        found.append(f"metric {claim.metric!r} needs 'at_least'")
    if claim.metric in _SAVINGS and claim.at_least is not None and not -1 < claim.at_least < 1:
        found.append(f"at_least {claim.at_least:g} is no share; write 0.62 for 62 %")
    if claim.at_least is not None and claim.at_most is not None and claim.at_least > claim.at_most:
        found.append(f"at_least {claim.at_least:g} is above at_most {claim.at_most:g}")
    if claim.metric == "quality" and claim.quality_metric is None:
        found.append("metric 'quality' needs 'quality_metric' and 'quality_margin'")
    if (claim.quality_metric is None) != (claim.quality_margin is None):
        found.append("quality_metric and quality_margin go together")
    if claim.quality_margin is not None and claim.quality_margin < 0:
        found.append(f"quality_margin {claim.quality_margin:g} must not be negative")
    if claim.metric == "hardware" and not claim.hardware:
        found.append("metric 'hardware' needs 'hardware', a list of card names")
    if claim.metric == "none" and not claim.needs:
        found.append("metric 'none' needs 'needs': what it would take to test the claim")
    low, high = claim.min_parameters, claim.max_parameters
    if low is not None and high is not None and low >= high:
        found.append(f"min_parameters {low:g} is not below max_parameters {high:g}")
    if claim.metric not in {"none"} and not claim.arms:
        found.append("needs at least one arm")
    return found
