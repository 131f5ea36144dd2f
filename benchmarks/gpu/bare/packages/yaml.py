"""Of PyYAML, the scalars of the command line, and values as JSON, which is YAML."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any


class YAMLError(Exception):
    """As PyYAML has it; never raised."""


MarkedYAMLError = YAMLError
reader = SimpleNamespace(ReaderError=YAMLError)


class SafeLoader:
    """Reads one plain scalar."""

    def __init__(self, stream: object) -> None:
        pass

    def resolve(self, kind: object, text: str, implicit: object) -> None:
        """All scalars are told apart by what they hold."""

    def construct_object(self, node: ScalarNode) -> object:
        """A number, true, false or null, as nothing is too; any other text is itself."""
        try:
            return json.loads(node.value or "null")
        except ValueError:
            return node.value


class ScalarNode:
    """A scalar's text."""

    def __init__(self, tag: object, value: str) -> None:
        self.value = value


def safe_load(text: str) -> object:
    """A quoted scalar."""
    return text[1:-1]


def safe_dump(value: object, **style: Any) -> str:
    """The value as JSON."""
    return json.dumps(value, default=str)
