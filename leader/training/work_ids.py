"""Work ids: where a work order belongs."""

from __future__ import annotations

import re

_WORK_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,9})-[0-9a-f]{32}")


def place_of(work_id: str) -> str:
    """What a work id says about where it belongs, such as " of round 3, step 0"; anybody may have made it up."""
    match = _WORK_ID.fullmatch(work_id)
    return f" of round {match[1]}, step {match[2]}" if match else ""


def round_and_step(work_id: str) -> tuple[int, int] | None:
    """Where a work id says that it belongs; None for one that was never given out."""
    match = _WORK_ID.fullmatch(work_id)
    return (int(match[1]), int(match[2])) if match else None
