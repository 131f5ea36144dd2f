"""Programs of several verbs, `python -m NAME VERB ...`, each verb with flags of its own."""

from __future__ import annotations

from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from utils.errors import ConfigError
from utils.settings.flags import FlagParser
from utils.settings.spelling import closest

#: What stands for a flag's value; its type, a tuple of choices, or None for a switch; its default; its description.
#: A default of `...` is none: the flag must be given. A default of [] is a flag that may be given often.
Flag = tuple[str, Any, Any, str]
R = TypeVar("R")


@dataclass(frozen=True)
class Verb(Generic[R]):
    """A word after the program's name, and what does it."""

    about: str
    run: R
    flags: tuple[str, ...]
    what: str = (
        ""  # beside flags: "NAME", "[NAME]" if it may be left out, "RUN..." for any number, "verify" as it is
    )
    kind: Callable[[str], Any] = str  # the type of that


class Verbs(Generic[R]):
    """A program's verbs by name."""

    def __init__(
        self, prog: str, description: str, flags: Mapping[str, Flag], verbs: Mapping[str, Verb[R]]
    ) -> None:
        """`flags` are described once, for all verbs that have them."""
        self.verbs = verbs
        self._prog = prog
        self._description = description
        self._flags = flags

    def parse(self, argv: Sequence[str]) -> tuple[R, Namespace]:
        """What does the verb of a command line, and its options, with what stood beside them as `what`.

        Raises ConfigError. `--help` raises SystemExit.
        """
        word = argv[0] if argv else ""
        if word not in self.verbs:
            self.parser().parse_or_raise([text for text in argv if text.startswith("-")], {})
            meant = closest(word, {name: [] for name in self.verbs})
            known = f"give a verb, one of {', '.join(self.verbs)}; see {self._prog} --help"
            raise ConfigError(f"did you mean {meant}?" if meant else known)
        return self.verbs[word].run, self.parser(word).parse_or_raise(argv[1:], {})

    def parser(self, word: str = "") -> FlagParser:
        """The flags of one verb; without one what the verbs are, and unseen all flags, for shells to complete."""
        return self._of_verb(word, self.verbs[word]) if word else self._of_all()

    def _of_all(self) -> FlagParser:
        width = max(len(f"{name} {verb.what}") for name, verb in self.verbs.items())
        words = [f"  {f'{name} {verb.what}':<{width}} {verb.about}" for name, verb in self.verbs.items()]
        usage = "%(prog)s VERB [flags of this verb]"
        parser = FlagParser(self._prog, usage, self._description + "\n".join(words))
        for name in self._flags:
            self._add(parser, name, seen=False)
        return parser

    def _of_verb(self, word: str, verb: Verb[R]) -> FlagParser:
        usage = f"%(prog)s {word} {verb.what}".rstrip() + " [flags]"
        parser = FlagParser(self._prog, usage, f"{verb.about[0].upper()}{verb.about[1:]}.")
        if verb.what:
            metavar = verb.what.strip("[.]")
            many = "*" if verb.what.endswith("...") else "?" if verb.what[0] == "[" else None
            only = [metavar] if metavar.islower() else None
            parser.add_argument(
                "what", nargs=many, type=verb.kind, choices=only, metavar=metavar, help=SUPPRESS
            )
        for name in verb.flags:
            self._add(parser, name, seen=True)
        return parser

    def _add(self, parser: FlagParser, name: str, *, seen: bool) -> None:
        value, kind, default, about = self._flags[name]
        needed = default is ...
        settings: dict[str, Any] = {
            "default": None if needed else default,
            "help": about if seen else SUPPRESS,
        }
        if kind is None:
            settings["action"] = "store_true"
        elif isinstance(kind, tuple):
            settings["choices"] = kind
        else:
            settings |= {"type": kind, "metavar": value, "required": needed and seen}
            settings["action"] = "append" if default == [] else "store"
        parser.add_argument(name, **settings)
