"""Bytes on the wire: payload messages counted where they are sent and received."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Traffic:
    """Payload bytes since the run began, framing included."""

    up: int = 0  # learners to leader: updates
    down: int = 0  # leader to learners: model and data
