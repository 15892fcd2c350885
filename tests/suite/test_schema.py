"""The JSON Schema for editors: the shipped suites fit it, mistakes do not, it agrees with the loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from harness.suite.load import load
from harness.suite.schema import suite_schema

SUITES = sorted((Path(__file__).parents[2] / "suites").glob("*.yaml"))


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = suite_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_there_are_suites() -> None:
    assert {"scaling.yaml", "quickstart.yaml", "gpu-smoke.yaml"} <= {path.name for path in SUITES}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_shipped_suites_load_and_fit_the_schema(path: Path, validator: Draft202012Validator) -> None:
    load(path)
    assert [error.message for error in validator.iter_errors(yaml.safe_load(path.read_text()))] == []


GOOD: dict[str, Any] = {
    "name": "x",
    "workload": "language",
    "arms": {
        "again": "dense",
        "sat": None,
        "wide": {"method": "sat", "axis": "width", "options": {"score": "random"}},
        "short": {"method": "dense-short", "match": "sat"},
    },
    "experiments": [{"protocol": "train", "sizes": ["0.1M", "0.3M"], "seeds": 3, "recipe": {"steps": 9}}],
    "recipe": {"batch_size": 4},
    "meter": "simulated:h100-saving",
    "budget": "1h30m",
    "idle": 0,
}


def put(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The good suite with one value changed."""

    def changed(holder: Any, rest: tuple[Any, ...]) -> Any:
        if not rest:
            return value
        copy = list(holder) if isinstance(holder, list) else dict(holder)
        copy[rest[0]] = changed(holder[rest[0]] if len(rest) > 1 else None, rest[1:])
        return copy

    result: dict[str, Any] = changed(GOOD, path)
    return result


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arms",), ["dense", "sat"]),
        (("experiments", 0, "seeds"), [4, 7]),
        (("budget",), 90),
        (("meter",), "auto"),
        (("workload_options",), {"tokens_per_parameter": 2}),
        (("experiments", 0, "arms"), ["dense", "sat"]),
    ],
)
def test_friendly_forms_fit(path: tuple[Any, ...], value: Any, validator: Draft202012Validator) -> None:
    assert validator.is_valid(GOOD)
    assert validator.is_valid(put(path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nmae",), "x"),
        (("name",), "a b"),
        (("workload",), "langauge"),
        (("meter",), "nvlm"),
        (("budget",), "9 minutes"),
        (("budget",), 0),
        (("device",), "gpu"),
        (("recipe", "step"), 3),
        (("recipe", "steps"), 0),
        (("workload_options",), {"tokens": 2}),
        (("arms", "wide", "axis"), "up"),
        (("arms", "wide", "options", "axs"), "width"),
        (("arms", "again"), 3),
        (("arms", "short", "method"), "dense-shrot"),
        (("experiments",), []),
        (("experiments", 0, "protocol"), "trian"),
        (("experiments", 0, "seeds"), 0),
        (("experiments", 0, "seeds"), [1, 1]),
        (("experiments", 0, "sizes"), []),
        (("experiments", 0, "sizes"), "0.1M"),
        (("experiments", 0, "recipe", "precision"), "fp16"),
        (("footprint",), {"pue": 0.5}),
    ],
)
def test_mistakes_do_not_fit(path: tuple[Any, ...], value: Any, validator: Draft202012Validator) -> None:
    assert not validator.is_valid(put(path, value))
