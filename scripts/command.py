"""`flockstep WORD ...`: one command for all programs, each with the flags and exit codes of its module."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from utils.errors import ConfigError, program
from utils.settings.flags import FlagParser
from utils.settings.spelling import closest


@dataclass(frozen=True)
class Word:
    """A program by the name that it has here."""

    module: str  # with `main`, which reads sys.argv and returns the exit code
    about: str
    parsers: tuple[str, ...]  # modules whose `make_parser` gives its flags


WORDS: Mapping[str, Word] = {
    "leader": Word("leader.__main__", "lead a training run", ("leader.cli",)),
    "learner": Word("learner.__main__", "take part in a training run", ("learner.options",)),
    "edge": Word("leader.edge.__main__", "take updates in a leader's place", ("leader.edge.options",)),
    "aggregator": Word(
        "leader.aggregator.__main__", "sum what edges write into Kafka", ("leader.aggregator.__main__",)
    ),
    "trust": Word("leader.trust.cli", "say who may take part in training runs", ("leader.trust.cli",)),
    "simulate": Word(
        "scripts.simulate.__main__",
        "a whole run in one process, with virtual learners",
        ("scripts.simulate.__main__", "leader.cli"),
    ),
    "partition": Word(
        "scripts.partition",
        "show how data is split among learners, and write the parts",
        ("scripts.partition",),
    ),
    "weights": Word(
        "scripts.weights", "write the initial weights of a task of your own", ("scripts.weights",)
    ),
    "privacy": Word(
        "scripts.privacy", "plan what a private run costs, and draw what it came to", ("scripts.privacy",)
    ),
    "health": Word("scripts.health", "ask whether a leader serves", ("scripts.health",)),
    "registry": Word(
        "scripts.registry", "list, pull and promote the models that runs registered", ("scripts.registry",)
    ),
    "history": Word(
        "scripts.history", "ask the records of runs who did what, and how long it took", ("scripts.history",)
    ),
    "page": Word("scripts.page", "show runs that have ended in a browser, side by side", ("scripts.page",)),
    "demo": Word(
        "scripts.demo", "a leader and two learners on this machine train CIFAR-10", ("scripts.demo",)
    ),
    "completion": Word("scripts.completion", "print what completes all this in bash or zsh", ()),
}

_DESCRIPTION = """\
Distributed and federated training: one leader, many learners. Each word has flags of its own, see for \
example flockstep leader --help.

"""


@program
def main() -> int:
    """Run the program that the first argument names; returns its exit code."""
    word, rest = sys.argv[1] if len(sys.argv) > 1 else "", sys.argv[2:]
    if word.startswith("-"):
        make_parser().parse_or_raise(sys.argv[1:2], {})
    if word not in WORDS:
        raise ConfigError(_unknown(word))
    _look_last_in(Path.cwd())
    sys.argv = [f"flockstep {word}", *rest]
    code: int = import_module(WORDS[word].module).main()
    return code


def make_parser() -> FlagParser:
    """The flags before a word."""
    words = "\n".join(f"  {name:<11} {word.about}" for name, word in WORDS.items())
    return FlagParser("flockstep", "%(prog)s WORD [flags of this word]", _DESCRIPTION + words)


def parsers_of(word: str) -> list[ArgumentParser]:
    """The parsers of a word's flags."""
    return [import_module(module).make_parser() for module in WORDS[word].parsers]


def _unknown(word: str) -> str:
    if not word:
        return f"give a word: {', '.join(WORDS)}; see flockstep --help"
    meant = closest(word, {name: [known.about] for name, known in WORDS.items()})
    return f"{word}: unknown word; " + (f"did you mean {meant}?" if meant else "see flockstep --help")


def _look_last_in(folder: Path) -> None:
    """Find modules in `folder`, such as a task, but never one with the name of ours; nor do child processes."""
    for package in ("leader", "learner", "model", "protos", "utils"):
        import_module(package)
    sys.path.append(str(folder))
    os.environ["PYTHONSAFEPATH"] = "1"
