"""Settings from flags, environment and files, checked together against one frozen pydantic model.

A value given anywhere is a `Given`: it remembers where it came from, so that an error can say so.
Precedence is the caller's one line: `{**file, **environment, **flags}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from utils.errors import ConfigError
from utils.settings.keys import Key, keys_of
from utils.settings.scalars import from_yaml, show, text_from_yaml
from utils.settings.spelling import closest

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Given:
    """A value and where it came from, such as `--rounds`, `FLOCKSTEP_ROUNDS` or `run.yaml:3`."""

    value: object
    origin: str


class Schema(Generic[Model]):
    """The keys of a model of settings: plain fields, and sections, which may hold sections.

    `prefix` starts the names of its environment variables.
    """

    def __init__(self, model: type[Model], prefix: str) -> None:
        self.model = model
        self.prefix = prefix
        self.keys, self.sections = keys_of(model)

    def variable(self, name: str) -> str:
        """The environment variable that sets key `name`."""
        return self.prefix + name.replace(".", "__").upper()

    def from_environment(self, environ: Mapping[str, str], ignored: tuple[str, ...] = ()) -> dict[str, Given]:
        """All settings among the environment variables; unknown ones too, for `build` to refuse.

        `ignored` names variables with this prefix that belong to somebody else; a name that ends in an
        underscore is itself a prefix.
        """
        own = [name for name in sorted(environ) if name.startswith(self.prefix) and not _is_in(name, ignored)]
        by_variable = {self.variable(name): name for name in self.keys}
        return self.from_text((v, by_variable.get(v, self._key_like(v)), environ[v]) for v in own)

    def from_text(self, assignments: Iterable[tuple[str, str, str]]) -> dict[str, Given]:
        """Settings from (origin, key, text); of two for the same key the later one counts."""
        return {name: Given(self._value(name, text), origin) for origin, name, text in assignments}

    def build(self, given: Mapping[str, Given]) -> Model:
        """The model with these values and defaults for the rest.

        Raises ConfigError with one line for each problem.
        """
        problems = [self._unknown(name, item) for name, item in given.items() if name not in self.keys]
        nested: dict[str, Any] = {}
        for name, item in given.items():
            if name not in self.keys:
                continue
            if _is_disguised(self.keys[name], item.value):
                problems.append(self._refusal(name, item))
                continue
            *path, leaf = name.split(".")
            reduce(lambda branch, section: branch.setdefault(section, {}), path, nested)[leaf] = item.value
        try:
            model = self.model.model_validate(nested)
        except ValidationError as error:
            problems += [self._problem(detail, given) for detail in error.errors()]
        if problems:
            raise ConfigError(*problems)
        return model

    def values(self, model: Model) -> dict[str, object]:
        """Every key's value in `model`, as plain YAML types."""
        tree = model.model_dump(mode="json", by_alias=True)
        return {name: _look_up(tree, name) for name in self.keys}

    def closest(self, name: str) -> str | None:
        """The key or section that a misspelt `name` most likely means, or None."""
        known = {key.name: [key.description] for key in self.keys.values()}
        return closest(name, known | {section: [] for section in self.sections})

    def _key_like(self, variable: str) -> str:
        return variable.removeprefix(self.prefix).replace("__", ".").lower()

    def _value(self, name: str, text: str) -> object:
        key = self.keys.get(name)
        if key is not None and key.kind != "string":
            return from_yaml(text)
        return text_from_yaml(text, nullable=key is not None and key.nullable)

    def _unknown(self, name: str, item: Given) -> str:
        if name in self.sections:
            keys = ", ".join(key for key in self.keys if key.startswith(f"{name}."))
            return f"{item.origin}: {name} is a section, not a value; its keys are {keys}"
        if (top := name.partition(".")[0]) in self.sections and (inside := self._sections_in(top, name)):
            return f"{item.origin}: {name}: unknown key; {top} has {inside}"
        meant = self.closest(name)
        if item.origin == self.variable(name):
            hint = self.variable(meant) if meant in self.keys else None
            return f"{item.origin}: unknown variable; " + (f"did you mean {hint}?" if hint else "see --help")
        return f"{item.origin}: {name}: unknown key; " + (f"did you mean {meant}?" if meant else "see --help")

    def _sections_in(self, top: str, name: str) -> str:
        """What section `top` has, if it holds sections and `name` begins with none of them."""
        inside = dict.fromkeys(key.split(".")[1] for key in self.keys if key.startswith(f"{top}."))
        nested = any(section.startswith(f"{top}.") for section in self.sections)
        return ", ".join(inside) if nested and name.split(".")[1] not in inside else ""

    def _refusal(self, name: str, item: Given, why: str = "") -> str:
        return f"{item.origin}: {self._said(name, item)}; {why or 'allowed: ' + self._allowed(name)}"

    def _said(self, name: str, item: Given) -> str:
        return f"{name} is {'not shown' if self.keys[name].secret else show(item.value)}"

    def _allowed(self, name: str) -> str:
        return self.keys[name].allowed or "text, in quotes if it looks like something else"

    def _problem(self, detail: Any, given: Mapping[str, Given]) -> str:
        name = ".".join(str(part) for part in detail["loc"])
        why = detail["msg"].removeprefix("Value error, ") if detail["type"] == "value_error" else ""
        if name in self.keys and name not in given:
            flag = f"--{name.replace('_', '-')}"
            return f"{flag} (or {self.variable(name)}) is required: {self.keys[name].description}"
        if name in given:
            return self._refusal(name, given[name], why)
        # A rule between several keys: name those that were given and that the rule speaks of.
        spoken_of = [
            item.origin if f"{key} is " in why else f"{item.origin} ({self._said(key, item)})"
            for key, item in given.items()
            if key.startswith(name) and re.search(rf"\b{re.escape(key.rpartition('.')[2])}\b", why)
        ]
        return f"{', '.join(spoken_of) or name}: {why or detail['msg']}"


def _is_in(variable: str, ignored: tuple[str, ...]) -> bool:
    return any(variable == name or (name.endswith("_") and variable.startswith(name)) for name in ignored)


def _is_disguised(key: Key, value: object) -> bool:
    """What pydantic would let pass: a bool for a number, text that no file can hold."""
    if isinstance(value, str):
        return any("\ud800" <= char <= "\udfff" for char in value)
    return isinstance(value, bool) and key.kind != "boolean"


def _look_up(tree: Mapping[str, Any], name: str) -> object:
    return reduce(getitem, name.split("."), tree)
