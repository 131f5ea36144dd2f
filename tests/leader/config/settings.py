"""Runs as flags configure them, and what is wrong with those that are refused."""

from __future__ import annotations

import pytest

from leader.config import RunConfig
from leader.config.yaml_file import SCHEMA
from utils.errors import ConfigError


def config_of(*settings: str) -> RunConfig:
    assignments = (setting.partition("=") for setting in settings)
    return SCHEMA.build(SCHEMA.from_text(("--set", key, value) for key, _, value in assignments))


def refusal(*settings: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config_of(*settings)
    return str(caught.value)


def assert_refused(settings: str, *said: str) -> None:
    """Check that these settings are refused for one problem, in words of which these are some."""
    line = refusal(*settings.split())
    assert "\n" not in line
    assert ";" not in line  # one problem, and not a second by the way
    for text in said:
        assert text in line
