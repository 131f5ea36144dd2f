"""`flockstep completion bash|zsh`: what completes words, flags and their values, generated from the parsers."""

from __future__ import annotations

import sys
from argparse import Action
from collections.abc import Iterator, Sequence
from importlib.resources import files

from leader.config.yaml_file import SCHEMA
from scripts.command import WORDS, parsers_of
from utils.errors import ConfigError, program

_SHELLS = ("bash", "zsh")


def script(shell: str) -> str:
    """The completion of `shell`, one of bash and zsh."""
    cases = [f'            {pattern}) all="{" ".join(values)}" ;;' for pattern, values in _cases()]
    text = files("scripts").joinpath(f"completion.{shell}").read_text(encoding="utf-8")
    return text.replace("@words@", " ".join(WORDS)).replace("@cases@", "\n".join(cases))


def _cases() -> Iterator[tuple[str, Sequence[str]]]:
    """What may come after a word and the argument before it, as a pattern of both; nothing where it is a file."""
    yield '"completion "*', _SHELLS
    for word in WORDS:
        actions = [action for parser in parsers_of(word) for action in parser._actions]
        flags = {flag: action for action in actions for flag in action.option_strings if flag[:2] == "--"}
        patterns: dict[tuple[str, ...], list[str]] = {}
        for flag, action in flags.items():
            if action.nargs != 0:
                patterns.setdefault(_values(flag, action), []).append(f'"{word} {flag}"')
        yield from (("|".join(those), values) for values, those in patterns.items())
        if flags:
            yield f'"{word} "*', tuple(flags)


def _values(flag: str, action: Action) -> tuple[str, ...]:
    """The values that a flag is known to take: of --set, the keys."""
    if flag == "--set":
        return tuple(f"{key}=" for key in SCHEMA.keys)
    if action.choices is not None:
        return tuple(map(str, action.choices))
    # Of HOST:PORT or DIR|cifar10 capitals stand for a value.
    return tuple(part for part in str(action.metavar).split("|") if part.islower())


@program
def main() -> int:
    """Print the script of the shell that the one argument names; returns the exit code."""
    if len(sys.argv) != 2 or sys.argv[1] not in _SHELLS:
        raise ConfigError("give the shell: flockstep completion bash, or flockstep completion zsh")
    print(script(sys.argv[1]), end="")
    return 0
