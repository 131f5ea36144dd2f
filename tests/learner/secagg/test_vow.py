"""Vows: one set of survivors an update, over restarts too, and few updates a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.secagg.vow import Vows
from utils.errors import ConfigError

ONE, OTHER = b"1" * 32, b"2" * 32


def test_the_first_set_of_survivors_stays_the_only_one(tmp_path: Path) -> None:
    vows = Vows(tmp_path)
    assert vows.allow("run", 3, "work", ONE)
    assert vows.allow("run", 3, "work", ONE)
    assert not vows.allow("run", 3, "work", OTHER)
    restarted = Vows(tmp_path)
    assert restarted.allow("run", 3, "work", ONE)
    assert not restarted.allow("run", 3, "work", OTHER)
    assert (tmp_path / "vows.json").stat().st_mode & 0o777 == 0o600


def test_a_round_is_tried_three_times_and_no_more(tmp_path: Path) -> None:
    vows = Vows(tmp_path)
    assert [vows.allow("run", 3, f"work-{n}", ONE) for n in range(4)] == [True, True, True, False]
    assert vows.allow("run", 4, "work-9", ONE)
    assert vows.allow("other", 3, "work-9", ONE)


def test_a_file_that_can_not_be_read_is_an_error_and_no_new_beginning(tmp_path: Path) -> None:
    (tmp_path / "vows.json").write_text("{")
    with pytest.raises(ConfigError, match="no file of vows"):
        Vows(tmp_path)
    (tmp_path / "vows.json").write_text("[1]")
    with pytest.raises(ConfigError, match="no file of vows"):
        Vows(tmp_path)
