"""The JSON Schema of a config file: what editors complete and check against."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from leader.cli import parse
from leader.config import RunConfig
from leader.config.yaml_file import SCHEMA, dump_config, dump_schema

EXAMPLES = sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
TYPES: Mapping[str, Any] = {
    "object": dict,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
#: Keywords that refuse nothing, or are looked at with another one.
NOTES = {"$schema", "$defs", "title", "description", "default", "format", "type", "additionalProperties"}
COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "enum": lambda value, choices: value in choices,
}


def is_a(kind: str, value: Any) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def problems(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], at: str = "") -> list[str]:
    """What draft 2020-12 says against `value`, as far as it is used here; KeyError for any other keyword."""
    if "type" in schema and not is_a(schema["type"], value):
        return [at]
    found: list[str] = []
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                found += problems(value, root["$defs"][wanted.removeprefix("#/$defs/")], root, at)
            case "anyOf":
                if all(problems(value, option, root, at) for option in wanted):
                    found.append(at)
            case "properties":
                for name, inner in value.items():
                    if name in wanted:
                        found += problems(inner, wanted[name], root, f"{at}.{name}")
                    elif not schema["additionalProperties"]:
                        found.append(f"{at}.{name}")
            case _ if keyword not in NOTES and not COMPARED[keyword](value, wanted):
                found.append(at)
    return found


def refused(text: str) -> list[str]:
    schema = json.loads(dump_schema())
    return problems(yaml.safe_load(text), schema, schema)


def test_the_flag_prints_it_and_needs_no_valid_config(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--print-schema"], {"FLOCKSTEP_ROUNDS": "-1"})
    assert ended.value.code == 0
    assert capsys.readouterr().out == dump_schema()


def test_it_names_its_draft_and_describes_every_key() -> None:
    schema = json.loads(dump_schema())
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, key in SCHEMA.keys.items():
        *sections, leaf = name.split(".")
        owner = schema
        for section in sections:
            owner = schema["$defs"][owner["properties"][section]["$ref"].rpartition("/")[2]]
        field = owner["properties"][leaf]
        assert field["description"] == key.description
        assert "default" in field


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_valid(path: Path) -> None:
    assert refused(path.read_text(encoding="utf-8")) == []


def test_what_print_config_writes_is_valid() -> None:
    assert refused(dump_config(RunConfig())) == []


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("round: 3", ".round"),
        ("rounds: many", ".rounds"),
        ("rounds: 0", ".rounds"),
        ("exchange: weights", ".exchange"),
        ("train: {lr: 0}", ".train.lr"),
        ("train: {learning_rate: 1}", ".train.learning_rate"),
        ("learners: true", ".learners"),
    ],
)
def test_an_editor_sees_what_the_leader_would_refuse(text: str, where: str) -> None:
    assert refused(text) == [where]
