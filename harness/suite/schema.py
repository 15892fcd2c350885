"""JSON Schema of the suite file, friendly forms included, for completion and checks in editors.

``python -m harness schema`` prints it. What a schema can't say (an arm that exists, a circle of matches)
is left to ``validate``.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from harness.meter.base import METERS
from harness.methods.base import METHODS
from harness.suite.form import SuiteForm
from harness.suite.spec import Recipe
from harness.workloads.base import WORKLOADS

Schema = dict[str, Any]


def suite_schema() -> Schema:
    """The schema (draft 2020-12), with the names and options of everything that is registered."""
    schema = SuiteForm.model_json_schema()
    definitions: Schema = schema["$defs"]
    root, arm, experiment = schema["properties"], definitions["ArmForm"], definitions["ExperimentForm"]
    methods, workloads = dict(METHODS.items()), dict(WORKLOADS.items())

    changes = _changes(Recipe, definitions)
    root["recipe"] = {**changes, **_described(root["recipe"])}
    experiment["properties"]["recipe"] = {**changes, **_described(experiment["properties"]["recipe"])}

    root["workload"]["enum"] = sorted(workloads)
    plain = [name for name, meter in METERS.items() if not meter.argument]
    told = "|".join(name for name, meter in METERS.items() if meter.argument)
    root["meter"]["anyOf"] = [{"enum": ["auto", *plain]}, {"pattern": f"^({told}):.+$"}]
    # a size between the rungs is a size too, so rungs are offered, not demanded
    rungs = [size for workload in workloads.values() for size in workload().sizes()]
    experiment["properties"]["sizes"]["items"] = {"type": "string", "examples": list(dict.fromkeys(rungs))}
    root["arms"] = {**_described(root["arms"]), "anyOf": [_arm_mapping(root["arms"]), _name_list()]}
    arm["properties"]["method"] = {**_described(arm["properties"]["method"]), "enum": sorted(methods)}

    arm["allOf"] = []
    for name, method in sorted(methods.items()):
        options = _changes(method.Options, definitions)
        inline = {"properties": {**options.get("properties", {}), "options": options}}
        arm["allOf"].append({"if": _says("method", name), "then": inline})
    schema["allOf"] = []
    for name, workload in sorted(workloads.items()):
        options = _changes(workload.Options, definitions)
        then = {"properties": {"workload_options": options}}
        schema["allOf"].append({"if": _says("workload", name), "then": then})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Suite of the SAT harness"}


def _changes(model: type[BaseModel], definitions: Schema) -> Schema:
    """Some fields of a model: nothing is required, nothing else is known."""
    schema = model.model_json_schema()
    definitions.update(schema.pop("$defs", {}))
    schema.pop("required", None)
    schema.pop("title", None)
    return {**schema, "additionalProperties": False}


def _described(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("description", "default") if key in schema}


def _arm_mapping(arms: Schema) -> Schema:
    short = [{"type": "string", "description": "its method"}, {"type": "null"}]
    return {
        "type": "object",
        "propertyNames": arms.get("propertyNames", {}),
        "additionalProperties": {"anyOf": [{"$ref": "#/$defs/ArmForm"}, *short]},
    }


def _name_list() -> Schema:
    return {"type": "array", "items": {"type": "string"}, "uniqueItems": True}


def _says(key: str, value: str) -> Schema:
    return {"properties": {key: {"const": value}}, "required": [key]}
