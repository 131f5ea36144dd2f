"""Fields that several programs have, and their checks."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field


def matching(pattern: str, allowed: str) -> AfterValidator:
    """Of a text that is `pattern` and nothing else; an error says what is `allowed`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"allowed: {allowed}")
        return text

    return AfterValidator(check)


def is_address(text: str, lowest: int = 0) -> bool:
    """Whether a text is HOST:PORT, with no port below the lowest."""
    host, _, port = text.rpartition(":")
    return bool(host and re.fullmatch(r"\d{1,5}", port, re.ASCII)) and lowest <= int(port) <= 65535


def address(text: str) -> str:
    """HOST:PORT that can be dialled; raises ValueError."""
    if not is_address(text, 1):
        raise ValueError("allowed: HOST:PORT with a port from 1 to 65535")
    return text


def address_or_empty(text: str) -> str:
    """That, or ""; raises ValueError."""
    return text and address(text)


LogFormat = Annotated[
    Literal["auto", "rich", "plain", "json", "ecs"],
    Field(description="auto = rich on a terminal, else plain; ecs = JSON for Elasticsearch"),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], Field(description="least severe message shown")
]
