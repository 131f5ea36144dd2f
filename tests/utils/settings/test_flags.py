from __future__ import annotations

import argparse

import pytest

from tests.utils.settings.test_schema import SCHEMA
from utils.errors import ConfigError
from utils.settings.flags import SETTINGS, FlagParser, key_table, number, whole


def parser() -> FlagParser:
    made = FlagParser("cake", "%(prog)s [flags]", "Bakes.")
    made.add_key("--eggs", SCHEMA.keys["eggs"], "")
    made.add_key("--glazed", SCHEMA.keys["glazed"], "")
    made.add_key("--mode", SCHEMA.keys["oven.mode"], "")
    return made


def test_flags_of_keys_are_collected_with_their_origin_in_the_order_given() -> None:
    options = parser().parse_or_raise(["--eggs", "4", "--no-glazed", "--mode=grill", "--eggs", "5"], {})
    assert getattr(options, SETTINGS) == [
        ("--eggs", "eggs", "4"),
        ("--no-glazed", "glazed", "false"),
        ("--mode", "oven.mode", "grill"),
        ("--eggs", "eggs", "5"),
    ]


def test_unknown_flags_are_a_line_each_with_what_was_meant_also_from_elsewhere() -> None:
    with pytest.raises(ConfigError) as refused:
        parser().parse_or_raise(["--egs", "4", "--bakery", "--qqqqqq"], {"--set bakery": ["--bakery"]})
    assert str(refused.value).splitlines() == [
        "--egs: unknown flag; did you mean --eggs?",
        "--bakery: unknown flag; did you mean --set bakery?",
        "--qqqqqq: unknown flag; see --help",
    ]


def test_what_argparse_finds_is_a_config_error_and_a_stray_word_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^--eggs: expected one argument; see --help$"):
        parser().parse_or_raise(["--eggs"], {})
    with pytest.raises(ConfigError, match=r"^unexpected argument 'butter'; settings are given by flags"):
        parser().parse_or_raise(["butter"], {})


@pytest.mark.parametrize("text", ["1", "20"])
def test_a_whole_number_within_its_bounds_is_taken(text: str) -> None:
    assert whole(1, 20)(text) == int(text)


@pytest.mark.parametrize("text", ["0", "21", "1.0", "-1", "²", "1_0", "", "9" * 30])
def test_anything_else_is_no_whole_number(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no whole number from 1 to 20"):
        whole(1, 20)(text)


def test_a_number_is_what_its_rule_allows_and_never_nan() -> None:
    above_zero = number(lambda value: value > 0, "above 0")
    assert above_zero("0.25") == 0.25
    for text in ("0", "nan", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is no number above 0"):
            above_zero(text)


def test_help_has_every_key_with_what_is_allowed_and_its_default() -> None:
    table = key_table(SCHEMA)
    for name, key in SCHEMA.keys.items():
        assert name in table
        assert key.description in table
    assert "[200]" in table
    assert "How it is baked." in table
