"""The suite file as people write it: the friendly forms, their types, and what each key means.

Types are those that YAML gives (lists, not tuples), so that validation can be strict.
``load.py`` turns it into a :class:`harness.suite.spec.Suite`; ``schema.py`` exports it for editors.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from harness.suite.spec import FootprintOptions, Json, Level, Suite
from harness.suite.units import DURATION, parse_duration

T = TypeVar("T")

MAX_SEEDS = 1000
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


def _parse_idle(value: Any) -> float:
    return 0.0 if value in (0, "0s") and not isinstance(value, bool) else parse_duration(value)


def _seeds(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MAX_SEEDS:
            raise ValueError(f"a number of seeds must be from 1 to {MAX_SEEDS}, not {value}")
        return list(range(value))
    if not isinstance(value, list):
        raise ValueError("must be a number of seeds such as 3, or a list of them such as [0, 1, 2]")
    if not value:
        raise ValueError("must name at least one seed")
    return value


def _each_once(values: list[T]) -> list[T]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise ValueError(f"{value!r} is listed twice")
    return values


def _not_empty(what: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"must be a list of {what}, such as [{value[:40]}]")
        if value in ([], {}):
            raise ValueError(f"must name at least one of its {what}")
        return value

    return BeforeValidator(check)


def _slug(value: str) -> str:
    if not re.fullmatch(NAME, value):
        raise ValueError(f"{value[:60]!r} can't be a name: letters, digits, '.', '_' and '-' only")
    return value


def _arm(value: Any) -> Any:
    if value is None:
        return {}
    return {"method": value} if isinstance(value, str) else value


def _arms(value: Any) -> Any:
    """``[dense, sat]`` is short for ``{dense: , sat: }``."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return {item: {} for item in value}
    return value


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


Name = Annotated[str, AfterValidator(_slug), WithJsonSchema({"type": "string", "pattern": f"^{NAME}$"})]
_DURATION_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string", "pattern": f"^{DURATION}$", "minLength": 2}, {"type": "number", "exclusiveMinimum": 0}]
}
Duration = Annotated[float, BeforeValidator(parse_duration), WithJsonSchema(_DURATION_SCHEMA)]
_IDLE_SCHEMA: dict[str, Any] = {"anyOf": [*_DURATION_SCHEMA["anyOf"], {"const": 0}]}
Idle = Annotated[float, BeforeValidator(_parse_idle), WithJsonSchema(_IDLE_SCHEMA)]
_SEED_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MAX_SEEDS},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
    ]
}
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, lt=2**32)]],
    BeforeValidator(_seeds),
    AfterValidator(_each_once),
    WithJsonSchema(_SEED_SCHEMA),
]
_LIST_SCHEMA: dict[str, Any] = {"minItems": 1, "uniqueItems": True}
Sizes = Annotated[list[str], _not_empty("sizes"), AfterValidator(_each_once), Field(json_schema_extra=_LIST_SCHEMA)]
ArmNames = Annotated[list[Name], _not_empty("arms"), AfterValidator(_each_once), Field(json_schema_extra=_LIST_SCHEMA)]
Levels = Annotated[list[Level], _not_empty("levels"), AfterValidator(_each_once), Field(json_schema_extra=_LIST_SCHEMA)]


class ArmForm(BaseModel):
    """One way of training. Any other key is an option of its method, as under ``options``."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    method: str | None = Field(None, description="How it trains; left out, the arm is named after its method.")
    match: str | None = Field(None, description="The arm whose counted FLOPs this control spends.")
    options: Json = Field(default_factory=dict, description="Options of the method.")


class ExperimentForm(_Form):
    """One crossing of sizes, seeds and arms under one protocol."""

    protocol: Literal["train", "steady", "count"] = Field(
        description="train: a whole training, energy and quality. steady: energy per step, no quality. "
        "count: FLOPs only, nothing is trained."
    )
    sizes: Sizes = Field(description="Rungs of the workload's ladder.")
    seeds: Seeds | None = Field(None, description="How many seeds, or a list of them; count needs none.")
    arms: ArmNames | None = Field(None, description="Arms that take part; left out, all of the suite.")
    recipe: Json = Field(default_factory=dict, description="Changes to the workload's recipe, for all arms.")
    factors: dict[str, Levels] = Field(
        default_factory=dict,
        description="Keys of the recipe with the levels each takes; every combination is run and paired in itself.",
    )
    options: Json = Field(default_factory=dict, description="Changes to the workload's options.")


class SuiteForm(_Form):
    """A suite file: which trainings are run, paired and judged."""

    name: Name = Field(description="Names the result set.")
    title: str = Field("", description="Headline of the page; left out, the name.")
    question: str = Field("", description="What the suite is to answer, in a sentence.")
    workload: str = Field(description="What is trained: `harness ls workloads`.")
    workload_options: Json = Field(default_factory=dict, description="Options of the workload.")
    recipe: Json = Field(default_factory=dict, description="Changes to the workload's recipe, for all experiments.")
    baseline: str = Field("dense", description="The arm that all others are compared with.")
    arms: Annotated[dict[Name, Annotated[ArmForm, BeforeValidator(_arm)]], BeforeValidator(_arms)] = Field(
        default_factory=dict, description="Ways of training by name. A method's own name needs no entry."
    )
    experiments: Annotated[list[ExperimentForm], _not_empty("experiments")] = Field(
        description="What is run, in this order.", json_schema_extra={"minItems": 1}
    )
    claims: str = Field(
        Suite.model_fields["claims"].default, description="A shipped claims file by name, or a path beside the suite."
    )
    meter: str = Field(
        "auto",
        description="auto, a meter of `harness ls meters`, or NAME:ARGUMENT, e.g. simulated:h100 or replay:FILE.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes the GPU if there is one.")
    footprint: FootprintOptions = Field(default_factory=FootprintOptions, description="Factors for CO2e and money.")
    budget: Duration | None = Field(None, description="Time for the whole suite; no block is begun that won't fit.")
    timeout: Duration = Field(Suite.model_fields["timeout_s"].default, description="Longest time of one run.")
    idle: Idle = Field(Suite.model_fields["idle_s"].default, description="Idle baseline before each block.")
    cooldown_c: Annotated[float, Field(gt=0, le=100)] | None = Field(
        None, description="Degrees above the block's first start temperature that are waited out."
    )
    sample_hz: Annotated[float, Field(gt=0, le=100)] = Field(
        Suite.model_fields["sample_hz"].default, description="Reads of the meter a second."
    )
