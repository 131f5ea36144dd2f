from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from tests.chaos.options import parse


@pytest.mark.parametrize(
    "flags", ["", "--edges 3 --below 1 --batch-size 8 --lease-s 2.5 --exchange gradient"]
)
def test_the_command_that_is_told_makes_the_same_run(flags: str) -> None:
    options = parse(["--seed", "3", "--rounds", "9", *flags.split()])
    again = parse(shlex.split(options.replay)[3:])
    assert replace(again, folder=options.folder) == options
    assert again.settings == options.settings
