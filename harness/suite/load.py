"""Suite file to :class:`Suite`: all mistakes at once, each with file, line and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.suite import override
from harness.suite.check import Checker, claims_name, meter_request
from harness.suite.expand import PlanError, expand
from harness.suite.form import ArmForm, ExperimentForm, SuiteForm
from harness.suite.problems import Problem, SuiteError
from harness.suite.source import Source, read_file, read_text
from harness.suite.spec import Arm, Experiment, Protocol, Suite
from harness.suite.units import parse_duration
from harness.suite.validate import model_problems
from harness.types import UserError
from harness.workloads.base import WORKLOADS

__all__ = ["Problem", "SuiteError", "duration_s", "load", "loads"]


def load(path: Path | str, changes: Sequence[str] = ()) -> Suite:
    """Read a suite file.

    Args:
        path: the file.
        changes: ``path=value`` texts of ``--set``, applied in order before anything is checked.

    Raises:
        SuiteError: everything that is wrong with the file and the changes.
    """
    path = Path(path)
    return _suite(read_file(path), path.parent, changes)


def loads(text: str | bytes, name: str = "<text>", folder: Path | str = ".", changes: Sequence[str] = ()) -> Suite:
    """Like :func:`load`, from memory; ``folder`` is where a claims file beside the suite would lie."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _suite(read_text(raw, name), Path(folder), changes)


def duration_s(text: str) -> float:
    """Seconds of ``9m``, ``90s`` or ``1h30m``, as on the command line.

    Raises:
        UserError: it is not a duration.
    """
    try:
        return parse_duration(float(text) if text.replace(".", "", 1).isdigit() else text)
    except ValueError as error:
        raise UserError(str(error)) from None


def _suite(source: Source, folder: Path, changes: Sequence[str]) -> Suite:
    for change in changes:
        override.apply(source, change)
    form = model_problems(source, SuiteForm, source.data, ())
    Checker(source, folder).check()
    source.raise_problems()
    assert form is not None
    suite = _resolve(form, folder)
    _try_plan(suite, source)
    return suite


def _resolve(form: SuiteForm, folder: Path) -> Suite:
    """The friendly forms written out."""
    arms = {name: _arm(name, arm) for name, arm in form.arms.items()}
    experiments = [_experiment(experiment, form, list(form.arms)) for experiment in form.experiments]
    implied = [form.baseline, *(name for experiment in experiments for name in experiment.arms)]
    implied += [arm.match for arm in arms.values() if arm.match is not None]
    for name in implied:
        arms.setdefault(name, Arm(method=name))
    return Suite(
        name=form.name,
        title=form.title or form.name,
        question=form.question,
        workload=form.workload,
        workload_options=form.workload_options,
        baseline=form.baseline,
        arms=arms,
        experiments=tuple(experiments),
        claims=claims_name(form.claims, folder),
        meter=meter_request(form.meter, folder),
        device=form.device,
        footprint=form.footprint,
        budget_s=form.budget,
        timeout_s=form.timeout,
        cooldown_c=form.cooldown_c,
        idle_s=form.idle,
        sample_hz=form.sample_hz,
    )


def _try_plan(suite: Suite, source: Source) -> None:
    """Recipes and arms that fit no size are mistakes of the file too: the methods are asked."""
    try:
        expand(suite, WORKLOADS.get(suite.workload)(), "cpu")
    except PlanError as error:
        for index, what in error.details:
            source.report(("experiments", index), what)
        source.raise_problems()


def _arm(name: str, form: ArmForm) -> Arm:
    return Arm(method=form.method or name, match=form.match, options={**(form.model_extra or {}), **form.options})


def _experiment(form: ExperimentForm, suite: SuiteForm, all_arms: list[str]) -> Experiment:
    return Experiment(
        protocol=Protocol(form.protocol),
        sizes=tuple(form.sizes),
        seeds=(0,) if form.seeds is None else tuple(form.seeds),
        arms=tuple(all_arms if form.arms is None else form.arms),
        recipe={**suite.recipe, **form.recipe},
        factors={name: tuple(levels) for name, levels in form.factors.items()},
        options=form.options,
    )
