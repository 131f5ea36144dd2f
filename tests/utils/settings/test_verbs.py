"""Programs of several verbs: whose flags each word takes, and what is said to a word that is none."""

from __future__ import annotations

import pytest

from utils.errors import ConfigError
from utils.settings.flags import whole
from utils.settings.verbs import Verb, Verbs

PROGRAM = Verbs[str](
    "python -m garden",
    "Tend a garden.\n\n",
    {
        "--litres": ("N", whole(1, 9), 2, "water for each [2]"),
        "--from": ("CAN", str, ..., "where the water is"),
        "--gently": ("", None, False, "without a splash"),
        "--at": ("", ("dawn", "dusk"), "dusk", "when [dusk]"),
        "--with": ("TOOL", str, [], "a tool; may be given often"),
    },
    {
        "water": Verb("give water", "w", ("--litres", "--from", "--gently"), "BED..."),
        "sow": Verb("put seed in", "s", ("--at", "--with"), "BED"),
        "show": Verb("what grows", "l", ("--at",), "[BED]"),
        "look": Verb("whether all is well", "v", (), "twice"),
    },
)


def test_a_word_takes_its_own_flags_and_what_stands_beside_them() -> None:
    run, options = PROGRAM.parse(["water", "--from", "well", "north", "south", "--gently"])
    assert (run, options.what, options.litres, options.gently) == ("w", ["north", "south"], 2, True)
    run, options = PROGRAM.parse(["sow", "north", "--with", "rake", "--with", "spade", "--at", "dawn"])
    assert (run, options.what, getattr(options, "with"), options.at) == (
        "s",
        "north",
        ["rake", "spade"],
        "dawn",
    )
    assert PROGRAM.parse(["show"])[1].what is None
    assert PROGRAM.parse(["look", "twice"])[0] == "v"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "give a verb, one of water, sow, show, look; see python -m garden --help"),
        ("sew", "did you mean sow?"),
        ("--litters 3", "--litters: unknown flag; did you mean --litres?"),
        ("water north", "the following arguments are required: --from; see --help"),
        ("water --from well --litres 12", "--litres: '12' is no whole number from 1 to 9; see --help"),
        ("sow --litres 3 north", "--litres: unknown flag; see --help"),
        ("sow", "the following arguments are required: BED; see --help"),
        ("look once", "twice: invalid choice: 'once' (choose from "),
    ],
)
def test_what_makes_no_sense_is_told_with_what_would(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        PROGRAM.parse(line.split())
    assert str(told.value).startswith(words)


def test_help_lists_the_words_and_shells_complete_every_flag() -> None:
    parser = PROGRAM.parser()
    assert "  water BED... give water\n  sow BED      put seed in\n" in parser.format_help()
    assert "--gently" not in parser.format_help()
    known = {flag for action in parser._actions for flag in action.option_strings}
    assert known >= {"--litres", "--from", "--gently", "--at", "--with"}
    assert PROGRAM.parser("sow").format_usage() == "usage: python -m garden sow BED [flags]\n"
