"""Command lines: argparse whose errors are ConfigError, and flags that set a key of a schema."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from utils.errors import ConfigError
from utils.settings.keys import Key
from utils.settings.schema import Model, Schema
from utils.settings.spelling import closest
from utils.version import PROTOCOL, RELEASE

SETTINGS = "settings"  #: where the flags of keys collect their (origin, key, text), in the order given
_COLUMN = 28  # where descriptions start in --help


class FlagParser(argparse.ArgumentParser):
    """A parser that raises ConfigError, suggests the flag that was meant, and fits the terminal."""

    def __init__(self, prog: str, usage: str, description: str) -> None:
        super().__init__(
            prog=prog, usage=usage, allow_abbrev=False, add_help=False, formatter_class=_help_formatter
        )
        self.description = paragraph(description)
        self._optionals.title = "flags"
        self.add_argument("-h", "--help", action="help", help="show this and exit")
        version = f"flockstep {RELEASE} (protocol {PROTOCOL})"
        self.add_argument("--version", action="version", version=version, help="show the release and exit")
        self.set_defaults(**{SETTINGS: []})

    def add_key(self, flag: str, key: Key, metavar: str) -> None:
        """Add `flag` (and its `--no-` form for a bool), which sets `key`; `metavar` "" = by its type."""
        text = _with_default(key.description, key).replace("%", "%%")
        if key.kind == "boolean":
            self._add_switch(flag, key, text)
            return
        self.add_argument(
            flag,
            dest=SETTINGS,
            action="append",
            type=lambda value: (flag, key.name, value),
            metavar=metavar or "|".join(key.choices) or "N",
            help=text,
        )

    def _add_switch(self, flag: str, key: Key, text: str) -> None:
        for name, value, help_text in (
            (flag, "true", text),
            (flag.replace("--", "--no-", 1), "false", f"turn --{flag[2:]} off"),
        ):
            self.add_argument(
                name, dest=SETTINGS, action="append_const", const=(name, key.name, value), help=help_text
            )

    def parse_or_raise(self, argv: Sequence[str], others: Mapping[str, Sequence[str]]) -> argparse.Namespace:
        """Parse `argv`; `others` are further answers to a misspelt flag, with their spellings.

        Raises ConfigError, one line for each unknown flag. `--help` and `--version` raise SystemExit.
        """
        options, rest = self.parse_known_args(argv)
        flags = [text.partition("=")[0] for text in rest if text.startswith("-")]
        if flags:
            raise ConfigError(*(self._unknown(flag, others) for flag in flags))
        if rest:
            raise ConfigError(f"unexpected argument {rest[0]!r}; settings are given by flags, see --help")
        return options

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as ConfigError."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")

    def _unknown(self, flag: str, others: Mapping[str, Sequence[str]]) -> str:
        known: dict[str, Sequence[str]] = {
            name: [] for name in self._option_string_actions if name[:2] == "--"
        }
        meant = closest(flag, {**known, **others})
        return f"{flag}: unknown flag; " + (f"did you mean {meant}?" if meant else "see --help")


def parser_of(
    schema: Schema[Any], prog: str, description: str, environment: str, metavars: Mapping[str, str]
) -> FlagParser:
    """The flags of a program that joins a leader: one for each key of its schema."""
    parser = FlagParser(prog, "%(prog)s --leader HOST:PORT [flags]", description)
    for name, key in schema.keys.items():
        parser.add_key(f"--{name.replace('_', '-')}", key, metavars.get(name, ""))
    parser.epilog = paragraph(environment)
    return parser


def options_of(
    schema: Schema[Model], parser: FlagParser, argv: list[str], environ: Mapping[str, str]
) -> Model:
    """What `argv` and the environment give of a schema's keys."""
    given = parser.parse_or_raise(argv, {})
    return schema.build({**schema.from_environment(environ), **schema.from_text(given.__dict__[SETTINGS])})


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        end = "2**63 - 1" if most == 2**63 - 1 else most
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {end}")

    return parse


def number(allowed: Callable[[float], bool], which: str) -> Callable[[str], float]:
    """The type of a flag that takes a number, `which` says in words what is allowed."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not allowed(value):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {which}")
        return value

    return parse


def paragraph(text: str, indent: int = 0) -> str:
    """Text wrapped to the terminal; blank lines and lines that begin with a space stay as they are."""
    pad = " " * indent
    blocks = [
        line
        if line.startswith(" ")
        else textwrap.fill(line, _width(), initial_indent=pad, subsequent_indent=pad)
        for line in text.split("\n")
    ]
    return "\n".join(blocks)


def key_table(schema: Schema[Any]) -> str:
    """Every key of `schema` by section, with description, (what is allowed) and [default], for --help."""
    lines = [paragraph(schema.model.__doc__ or "", 2)]
    section = ""
    for key in schema.keys.values():
        owner = key.name.rpartition(".")[0]
        if owner != section:
            section = owner
            lines += ["", paragraph(schema.sections[section], 2)]
        lines += _row(key)
    return "\n".join(lines)


def _row(key: Key) -> list[str]:
    allowed = f" ({key.allowed})" if key.allowed else ""
    body = textwrap.wrap(_with_default(key.description + allowed, key), _width() - _COLUMN)
    head = f"    {key.name}"
    if len(head) > _COLUMN - 2:
        return [head, *(" " * _COLUMN + line for line in body)]
    return [head.ljust(_COLUMN) + body[0], *(" " * _COLUMN + line for line in body[1:])]


def _with_default(text: str, key: Key) -> str:
    return f"{text} [{key.default}]" if key.default else text


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=_COLUMN, width=_width())


def _width() -> int:
    return max(shutil.get_terminal_size().columns - 2, 60)
