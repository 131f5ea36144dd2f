"""`python -m scripts.registry`: the models that runs have registered, in a folder or at an MLflow server."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import SUPPRESS, Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from leader.config.reference import Reference
from leader.services.registry import MODEL, Registry, Version, open_registry, pull
from utils.console import open_console, say
from utils.errors import ConfigError, program
from utils.files import remedy
from utils.settings.flags import FlagParser

_DESCRIPTION = """\
The models that runs have registered (services.registry.model, services.mlflow.model), each with where it comes from. \
Each verb has flags of its own.

  python -m scripts.registry list
  python -m scripts.registry pull models:/cifar10@champion --out champion
  python -m scripts.registry promote models:/cifar10/3 --registry http://127.0.0.1:5000

"""


def _reference(text: str) -> Reference:
    try:
        return Reference.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


#: Of each flag what stands for its value, the type of that, the default and the description.
_FLAGS: Mapping[str, tuple[str, Callable[[str], Any], Any, str]] = {
    "--registry": ("DIR|URL", str, "registry", "folder, or URL of an MLflow server [registry]"),
    "--out": ("DIR", Path, Path(), "folder for the model and its card [this one]"),
    "--alias": ("ALIAS", str, "champion", "alias to move [champion]"),
}


@dataclass(frozen=True)
class Verb:
    """A word after `python -m scripts.registry`."""

    about: str
    run: Callable[[Registry, Namespace], None]
    operand: tuple[str, Callable[[str], Any], bool]  # what it is called, its type, whether it is needed
    flags: tuple[str, ...]


def show(registry: Registry, options: Namespace) -> None:
    """A row a version."""
    versions = registry.versions(options.operand or "")
    if options.json:
        say(*json.dumps([_fields(version) for version in versions], indent=2).splitlines())
        return
    if not versions:
        say(f"no model is registered in {options.registry}: runs do that with services.registry.model=NAME")
        return
    table = Table(
        "model", "alias", "run", "round", "metric", "score", "dataset", "epsilon", "parent", box=None
    )
    for version in versions:
        card = version.card
        score = "" if card.score is None else f"{card.score:.4f}"
        epsilon = "" if card.epsilon is None else f"{card.epsilon:.3g}"
        aliases, round_ = ", ".join(version.aliases), "" if card.round is None else str(card.round)
        table.add_row(
            str(version), aliases, card.run, round_, card.metric, score, card.dataset, epsilon, card.parent
        )
    open_console().print(table)


def _fields(version: Version) -> dict[str, object]:
    return {
        "name": version.name,
        "number": version.number,
        "aliases": list(version.aliases),
        **version.card.model_dump(),
    }


def fetch(registry: Registry, options: Namespace) -> None:
    """Bring a model here, checked against its card."""
    version = registry.find(options.operand)
    pull(registry, version, options.out)
    _done(options, version, f"{options.out / MODEL}: {version}, SHA-256 of its weights {version.card.sha256}")


def promote(registry: Registry, options: Namespace) -> None:
    """Move an alias."""
    version = registry.find(options.operand)
    registry.promote(version, options.alias)
    _done(options, registry.find(options.operand), f"models:/{version.name}@{options.alias} is {version} now")


def _done(options: Namespace, version: Version, line: str) -> None:
    say(json.dumps(_fields(version)) if options.json else line)


VERBS: Mapping[str, Verb] = {
    "list": Verb("the versions of a model, or of all", show, ("NAME", str, False), ("--registry",)),
    "pull": Verb(
        "bring a model here, with its card", fetch, ("MODEL", _reference, True), ("--registry", "--out")
    ),
    "promote": Verb(
        "have an alias stand for a model", promote, ("MODEL", _reference, True), ("--registry", "--alias")
    ),
}


def make_parser(word: str = "") -> FlagParser:
    """The flags of one verb; without one, a description of the verbs, and unseen all flags, for shells to complete."""
    verb, prog = VERBS.get(word), "python -m scripts.registry"
    if verb is None:
        words = "\n".join(f"  {name:<8} {known.about}" for name, known in VERBS.items())
        parser = FlagParser(prog, "%(prog)s VERB [flags of this verb]", _DESCRIPTION + words)
    else:
        name, kind, needed = verb.operand
        usage = f"%(prog)s {word} {name if needed else f'[{name}]'} [flags]"
        parser = FlagParser(prog, usage, f"{verb.about[0].upper()}{verb.about[1:]}.")
        parser.add_argument("operand", nargs=None if needed else "?", type=kind, metavar=name, help=SUPPRESS)
    for flag in verb.flags if verb else _FLAGS:
        value, kind, default, about = _FLAGS[flag]
        parser.add_argument(flag, type=kind, default=default, metavar=value, help=about if verb else SUPPRESS)
    parser.add_argument("--json", action="store_true", help="JSON in place of a table" if verb else SUPPRESS)
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says; returns the exit code."""
    word, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if word not in VERBS:
        if word.startswith("-"):
            make_parser().parse_or_raise([word], {})
        raise ConfigError(f"give a verb, one of {', '.join(VERBS)}; see python -m scripts.registry --help")
    options = make_parser(word).parse_or_raise(rest, {})
    try:
        VERBS[word].run(open_registry(options.registry), options)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or options.registry}: {error.strerror}; {remedy(error)}"
        ) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
