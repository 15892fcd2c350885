"""Validation by pydantic models, with what is wrong reported in the words and places of the file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from harness.suite.problems import KeyPath, explain, unknown
from harness.suite.source import Source
from harness.suite.spec import Json

M = TypeVar("M", bound=BaseModel)


def model_problems(source: Source, model: type[M], value: Any, path: KeyPath) -> M | None:
    """Validate ``value`` strictly against ``model``; what is wrong is reported under ``path``."""
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            at = (*path, *(part for part in item["loc"] if not _is_tag(part)))
            what = _explained(source, item, at, _keys_at(model, item["loc"]))
            source.report(at, what, unusable=True, of_key=item["type"] == "extra_forbidden")
    return None


def field_problems(
    source: Source, model: type[BaseModel], values: Mapping[str, Any], paths: Mapping[str, KeyPath]
) -> None:
    """Validate some fields of a model, each alone: the rest comes from elsewhere."""
    for key, value in values.items():
        field = model.model_fields.get(key)
        if field is None:
            if model.model_config.get("extra") != "allow":
                source.report(paths[key], unknown("key", key, model.model_fields), unusable=True, of_key=True)
            continue
        try:
            _adapter(field).validate_json(json.dumps(value), strict=True)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                at = (*paths[key], *(part for part in item["loc"] if not _is_tag(part)))
                source.report(at, _explained(source, item, at, ()), unusable=True)


def options_problems(
    source: Source, model: type[BaseModel], options: Json, at: KeyPath, paths: Mapping[str, KeyPath]
) -> None:
    """Validate the options of a workload or method: each field alone, then what the fields owe each other."""
    before = len(source.problems)
    field_problems(source, model, options, paths)
    if len(source.problems) > before:
        return
    try:
        model.model_validate_json(json.dumps(options))
    except ValidationError as error:
        for item in error.errors(include_url=False):
            first = str(item["loc"][0]) if item["loc"] else None
            path = at if first is None else paths.get(first, (*at, first))
            source.report(path, _explained(source, item, path, ()), unusable=True)


def _adapter(field: FieldInfo) -> TypeAdapter[Any]:
    annotated: Any = field.annotation
    for item in field.metadata:  # its bounds
        annotated = Annotated[annotated, item]
    return TypeAdapter(annotated)


def _is_tag(part: str | int) -> bool:
    """Parts of a pydantic location that name a branch of a union, not a key."""
    return isinstance(part, str) and ("[" in part or part in ("int", "float", "str", "bool", "constrained-str"))


def _explained(source: Source, item: Any, at: KeyPath, keys: Iterable[str]) -> str:
    return explain(item, source.value(at), source.place(at).text if at in source.places else None, keys)


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """Fields of the (nested) model that a location's last part stands in."""
    here: Any = model
    for part in loc[:-1]:
        if isinstance(part, int) or not isinstance(here, type) or not issubclass(here, BaseModel):
            continue
        here = _inner_model(here.model_fields[part].annotation) if part in here.model_fields else here
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _inner_model(annotation: Any) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in getattr(annotation, "__args__", ()):
        found = _inner_model(part)
        if found is not None:
            return found
    return None
