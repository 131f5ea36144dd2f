"""`python -m scripts.registry`: the models that runs have registered, in a folder or at an MLflow server."""

from __future__ import annotations

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.table import Table

from leader.config.reference import Reference
from leader.services.registry.base import MODEL, Registry, Version, open_registry, pull
from utils.console import open_console, say
from utils.errors import ConfigError, program
from utils.files import remedy
from utils.settings.verbs import Flag, Verb, Verbs

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


_FLAGS: Mapping[str, Flag] = {
    "--registry": ("DIR|URL", str, "registry", "folder, or URL of an MLflow server [registry]"),
    "--out": ("DIR", Path, Path(), "folder for the model and its card [this one]"),
    "--alias": ("ALIAS", str, "champion", "alias to move [champion]"),
    "--json": ("", None, False, "JSON in place of a table"),
}


def show(registry: Registry, options: Namespace) -> None:
    """A row a version."""
    versions = registry.versions(options.what or "")
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
    version = registry.find(options.what)
    pull(registry, version, options.out)
    _done(options, version, f"{options.out / MODEL}: {version}, SHA-256 of its weights {version.card.sha256}")


def promote(registry: Registry, options: Namespace) -> None:
    """Move an alias."""
    version = registry.find(options.what)
    registry.promote(version, options.alias)
    _done(options, registry.find(options.what), f"models:/{version.name}@{options.alias} is {version} now")


def _done(options: Namespace, version: Version, line: str) -> None:
    say(json.dumps(_fields(version)) if options.json else line)


_OUT, _ALIAS = ("--registry", "--out", "--json"), ("--registry", "--alias", "--json")
PROGRAM = Verbs[Callable[[Registry, Namespace], None]](
    "python -m scripts.registry",
    _DESCRIPTION,
    _FLAGS,
    {
        "list": Verb("the versions of a model, or of all", show, ("--registry", "--json"), "[NAME]"),
        "pull": Verb(
            "bring a model here, with its card", fetch, ("--registry", "--out", "--json"), "MODEL", _reference
        ),
        "promote": Verb(
            "have an alias stand for a model",
            promote,
            ("--registry", "--alias", "--json"),
            "MODEL",
            _reference,
        ),
    },
)
make_parser = PROGRAM.parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says; returns the exit code."""
    run, options = PROGRAM.parse(sys.argv[1:] if argv is None else argv)
    try:
        run(open_registry(options.registry), options)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or options.registry}: {error.strerror}; {remedy(error)}"
        ) from error
    return 0


if __name__ == "__main__":
    sys.exit(main())
