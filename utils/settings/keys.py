"""The keys of a pydantic model of settings, described for people and for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from utils.settings.scalars import to_yaml


@dataclass(frozen=True)
class Key:
    """One setting of a model, described for people."""

    name: str  # dotted, such as "train.lr"
    kind: str  # JSON schema type: "integer", "number", "boolean" or "string"
    choices: tuple[str, ...]
    allowed: str  # such as "number above 0"; empty for free text
    default: str  # for people: "required" if there is none, empty if it means "not given"
    description: str
    nullable: bool
    secret: bool  # never shown


def keys_of(model: type[BaseModel]) -> tuple[dict[str, Key], dict[str, str]]:
    """All keys by dotted name, and the descriptions of the sections.

    Fields of the model that are models are sections, and so are theirs.
    """
    schema = model.model_json_schema()
    keys: dict[str, Key] = {}
    sections: dict[str, str] = {}

    def walk(properties: Mapping[str, Any], prefix: str) -> None:
        for leaf, field in properties.items():
            name = prefix + leaf
            if "$ref" not in field:
                keys[name] = _key(name, field)
                continue
            section = schema["$defs"][field["$ref"].rpartition("/")[2]]
            sections[name] = section["description"]
            walk(section["properties"], f"{name}.")

    walk(schema["properties"], "")
    return keys, sections


def _key(name: str, field: Mapping[str, Any]) -> Key:
    options = field.get("anyOf", [field])
    core = next(option for option in options if option["type"] != "null")
    nullable = len(options) > 1
    choices = tuple(core.get("enum", ()))
    return Key(
        name=name,
        kind=core["type"],
        choices=choices,
        allowed=", ".join(map(str, choices)) or _allowed(core) + (" or null" if nullable else ""),
        default=_default(field["default"]) if "default" in field else "required",
        description=field.get("description", ""),
        nullable=nullable,
        secret=core.get("format") == "password",
    )


def _default(value: object) -> str:
    if value is None or value == "":
        return ""
    return f"{value:.12g}" if isinstance(value, float) else to_yaml(value)


def _allowed(core: Mapping[str, Any]) -> str:
    if core["type"] == "string":
        return "path" if core.get("format") == "path" else ""
    if core["type"] == "boolean":
        return "true, false"
    whole = core["type"] == "integer"
    words = (
        ("minimum", "from"),
        ("exclusiveMinimum", "above"),
        ("maximum", "to"),
        ("exclusiveMaximum", "to below"),
    )
    bounds = [f"{word} {_bound(core[name], whole)}" for name, word in words if name in core]
    return " ".join(["whole number" if whole else "number", *bounds])


def _bound(value: float, whole: bool) -> str:
    return str(value) if whole else f"{value:.12g}"
