"""What names a model of a registry: `models:/NAME/3`, or `models:/NAME@ALIAS`."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Names are folders and parts of URLs, so they hold nothing that either acts on.
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
ALIAS = r"(?!v?[0-9]+$|latest$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}"  # the others mean versions, at MLflow too
_REFERENCE = re.compile(rf"models:/(?P<name>{NAME})(?:/(?P<number>[1-9][0-9]{{0,8}})|@(?P<alias>{ALIAS}))")


@dataclass(frozen=True)
class Reference:
    """A version of a model, by its number or by an alias.

    >>> Reference.parse("models:/cifar10@champion").alias
    'champion'
    """

    name: str
    number: int = 0  # 0 = by alias
    alias: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference in `text`; raises ValueError."""
        match = _REFERENCE.fullmatch(text)
        if match is None:
            raise ValueError(
                f"{text!r} names no model of a registry: models:/NAME/3 is a version, models:/NAME@champion "
                "what an alias stands for; NAME is 1 to 64 of letters, digits, '.', '_' and '-'"
            )
        return cls(match["name"], int(match["number"] or 0), match["alias"] or "")

    @staticmethod
    def is_one(text: str) -> bool:
        """Whether `text` is meant as a reference, and not as a path."""
        return text.startswith("models:")

    def __str__(self) -> str:
        return f"models:/{self.name}" + (f"@{self.alias}" if self.alias else f"/{self.number}")
