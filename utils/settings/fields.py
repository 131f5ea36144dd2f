"""Checks of fields that several programs have."""

from __future__ import annotations

import re

from pydantic import AfterValidator


def matching(pattern: str, allowed: str) -> AfterValidator:
    """Of a text that is `pattern` and nothing else; an error says what is `allowed`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text, re.ASCII):
            raise ValueError(f"allowed: {allowed}")
        return text

    return AfterValidator(check)


def address(text: str) -> str:
    """HOST:PORT that can be dialled; raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) < 65536:
        raise ValueError("allowed: HOST:PORT with a port from 1 to 65535")
    return text


def address_or_empty(text: str) -> str:
    """That, or ""; raises ValueError."""
    return text and address(text)
