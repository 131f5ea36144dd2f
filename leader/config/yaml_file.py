"""The YAML file of a run's configuration: read with line numbers, written with explanations."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from leader.config.run import RunConfig
from utils.errors import ConfigError
from utils.settings.scalars import to_yaml
from utils.settings.schema import Given, Schema

SCHEMA = Schema(RunConfig, prefix="FLOCKSTEP_")

_COMMENT_COLUMN = 32


def dump_config(config: RunConfig) -> str:
    """`config` as a YAML file with every key, its description as a comment; `read_config` reads it back."""
    lines: list[str] = []
    section = ""
    for name, value in SCHEMA.values(config).items():
        owner, _, leaf = name.rpartition(".")
        indent = "  " * name.count(".")
        if owner != section:
            section = owner
            heading = f"{indent[2:]}{section.rpartition('.')[2]}:  # {SCHEMA.sections[section]}"
            lines += [heading] if "." in section else ["", heading]
        entry = f"{indent}{leaf}: {to_yaml(value)}"
        lines.append(f"{entry:<{_COMMENT_COLUMN}}  # {SCHEMA.keys[name].description}")
    return "\n".join(lines) + "\n"


def dump_schema() -> str:
    """The JSON Schema (draft 2020-12) of such a file, with which editors complete and check one."""
    dialect = "https://json-schema.org/draft/2020-12/schema"
    schema = {"$schema": dialect, **RunConfig.model_json_schema(), "title": "Config of a Flockstep run"}
    return json.dumps(schema, indent=2) + "\n"


def read_config(path: Path) -> dict[str, Given]:
    """The settings in the YAML file at `path`, each with its line.

    Raises ConfigError if the file can't be read, isn't YAML, or gives a key twice; unknown keys and
    wrong values are left to `Schema.build`.
    """
    try:
        return _Reader(path).read(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file; give an existing one with --config") from None
    except OSError as error:
        raise ConfigError(f"{path}: can't read the config file: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(text for text in (error.context, error.problem) if text)
        raise ConfigError(f"{path}:{mark.line + 1 if mark else 1}: not valid YAML: {what}") from None
    except yaml.reader.ReaderError as error:
        raise ConfigError(f"{path}: not a YAML text file: {error.reason}, byte {error.position}") from None


class _Reader:
    """One file's walk from YAML nodes to settings."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problems: list[str] = []
        self._given: dict[str, Given] = {}
        self._first: dict[str, str] = {}  # key or section to where it is first

    def read(self, content: bytes) -> dict[str, Given]:
        loader = yaml.SafeLoader(content)
        root = loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            self._walk(loader, root, "")
        elif root is not None:
            self._problems.append(
                f"{self._origin(root)}: the config must be KEY: VALUE lines, such as rounds: 10"
            )
        if self._problems:
            raise ConfigError(*self._problems)
        return self._given

    def _walk(self, loader: yaml.SafeLoader, mapping: yaml.MappingNode, prefix: str) -> None:
        for key, value in mapping.value:
            name = prefix + (key.value if isinstance(key, yaml.ScalarNode) else "[...]")
            origin = self._origin(key)
            if name in self._first:
                self._problems.append(f"{origin}: {name}: given twice, first at {self._first[name]}")
                continue
            self._first[name] = origin
            if name in SCHEMA.sections and isinstance(value, yaml.MappingNode):
                self._walk(loader, value, f"{name}.")
            elif not (name in SCHEMA.sections and value.value == ""):  # a section with no keys is fine
                self._given[name] = Given(_construct(loader, value), origin)

    def _origin(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"


def _construct(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError:  # looks like a date or a number, but is none
        return str(node.value)
