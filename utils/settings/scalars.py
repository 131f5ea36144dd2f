"""One value as YAML text, and back."""

from __future__ import annotations

import yaml


def show(value: object) -> str:
    """A value as an error message quotes it: text in quotes, the rest as in YAML, long ones cut."""
    text = repr(value) if isinstance(value, str) else to_yaml(value)
    return text if len(text) <= 80 else text[:76] + " ..."


def to_yaml(value: object) -> str:
    """A scalar as YAML on one line."""
    unprintable = isinstance(value, str) and not value.isprintable()
    text = yaml.safe_dump(
        value,
        default_flow_style=True,
        default_style='"' if unprintable else None,
        allow_unicode=True,
        width=float("inf"),
    )
    return text.removesuffix("...\n").removesuffix("\n")


def from_yaml(text: str) -> object:
    """The value of a plain or quoted YAML scalar; any other text is itself, never a comment or a list."""
    try:
        if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
            return yaml.safe_load(text)
        loader = yaml.SafeLoader("")
        tag = loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return loader.construct_object(yaml.ScalarNode(tag, text))
    except (yaml.YAMLError, ValueError):  # looks quoted, or like a date or a number, but is none
        return text


def text_from_yaml(text: str, nullable: bool) -> str | None:
    """Like `from_yaml` for a key that holds text: 007, no and 2026-01-01 are names there.

    Only if `nullable`, null, ~ and nothing mean None.
    """
    value = from_yaml(text)
    return value if isinstance(value, str) or (value is None and nullable) else text
