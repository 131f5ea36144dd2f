"""Masked runs in which everything goes wrong at every moment: each ends with the right sums, and tells nothing else.

FLOCKSTEP_STORIES says how many are told; `python -m tests.secagg_story 10000` tells as many.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.secagg_story import told_all

STORIES = int(os.environ.get("FLOCKSTEP_STORIES", "200"))


def test_whatever_is_lost_and_whoever_is_killed_the_sums_are_right_and_no_update_is_in_two(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Sums, vows and kinds of shares are asserted as they are shown; that all kinds of trouble were there is here."""
    with caplog.at_level(logging.ERROR):
        happened = told_all(range(STORIES), tmp_path)
    phases = ["keys", "shares", "collecting", "agreeing", "revealing"]
    wanted = {f"learner lost {phase}" for phase in phases} | {f"leader killed {phase}" for phase in phases}
    wanted |= {f"learner restarted {phase}" for phase in ("advertised", "shared", "ready", "masked")}
    assert wanted <= happened.keys()
