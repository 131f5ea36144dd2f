"""`flockstep completion bash|zsh`: what completes words, flags and their values, generated from the parsers."""

from __future__ import annotations

import sys
from argparse import Action
from collections.abc import Iterator, Sequence

from leader.config.yaml_file import SCHEMA
from scripts.command import WORDS, parsers_of
from utils.errors import ConfigError, program

_BASH = """\
# Completion of flockstep in bash. To load it in every shell:
#   flockstep completion bash > ~/.local/share/bash-completion/completions/flockstep
_flockstep() {{
    local all="" word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    if ((COMP_CWORD == 1)); then
        all="{words} --help --version"
    else
        case "${{COMP_WORDS[1]}} $before" in
{cases}
        esac
    fi
    [[ $all == *= ]] && compopt -o nospace
    mapfile -t COMPREPLY < <(compgen -W "$all" -- "$word")
}}
complete -o default -F _flockstep flockstep
"""

_ZSH = """\
#compdef flockstep
# Completion of flockstep in zsh. To load it in every shell, into a folder of $fpath:
#   flockstep completion zsh > ~/.zfunc/_flockstep
_flockstep() {{
    local all="" before=${{words[CURRENT-1]}}
    if ((CURRENT == 2)); then
        all="{words} --help --version"
    else
        case "${{words[2]}} $before" in
{cases}
        esac
    fi
    if [[ -z $all ]]; then
        _files
    elif [[ $all == *= ]]; then
        compadd -S '' -- ${{=all}}
    else
        compadd -- ${{=all}}
    fi
}}
if [[ $funcstack[1] == _flockstep ]]; then _flockstep "$@"; else compdef _flockstep flockstep; fi
"""

_SHELLS = {"bash": _BASH, "zsh": _ZSH}


def script(shell: str) -> str:
    """The completion of `shell`, one of bash and zsh."""
    cases = [f'            {pattern}) all="{" ".join(values)}" ;;' for pattern, values in _cases()]
    return _SHELLS[shell].format(words=" ".join(WORDS), cases="\n".join(cases))


def _cases() -> Iterator[tuple[str, Sequence[str]]]:
    """What may come after a word and the argument before it, as a pattern of both; nothing where it is a file."""
    yield '"completion "*', tuple(_SHELLS)
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
    return tuple(
        part for part in str(action.metavar).split("|") if part.islower()
    )  # capitals stand for a value


@program
def main() -> int:
    """Print the script of the shell that the one argument names; returns the exit code."""
    if len(sys.argv) != 2 or sys.argv[1] not in _SHELLS:
        raise ConfigError("give the shell: flockstep completion bash, or flockstep completion zsh")
    print(script(sys.argv[1]), end="")
    return 0
