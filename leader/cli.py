"""The leader's command line: flags over environment over file over defaults, checked as a whole."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from leader.config import RunConfig
from leader.config.recipes import RECIPES
from leader.config.yaml_file import SCHEMA, dump_schema, read_config
from utils.console import say
from utils.errors import ConfigError
from utils.settings.flags import SETTINGS, FlagParser, key_table, paragraph
from utils.settings.scalars import show
from utils.settings.schema import Given
from utils.settings.spelling import closest

if TYPE_CHECKING:
    from leader.storage.run_folder import RunFolder

#: Flags that set one key; all other keys are set by `--set`.
FLAGS = (
    ("--listen", "listen", "HOST:PORT"),
    ("--data", "data.source", "DIR|cifar10|synthetic"),
    ("--model", "model.name", "NAME"),
    ("--learners", "learners", ""),
    ("--exchange", "exchange", ""),
    ("--rounds", "rounds", ""),
    ("--seed", "seed", ""),
    ("--run-dir", "run_dir", "DIR"),
    ("--log-format", "log.format", ""),
)

#: Flags that set one key to one value.
SWITCHES = (
    ("--secure", "trust.mode", "on", "encrypt and authenticate on loopback too"),
    ("--insecure", "trust.mode", "off", "never encrypt: whoever reaches the port may take part"),
    ("--no-web", "web.listen", "", "no live page and no metrics"),
)

#: Variables that begin like the leader's own but belong to other programs, to fault injection and the CA.
IGNORED = (
    "FLOCKSTEP_LEARNER_",
    "FLOCKSTEP_EDGE_",
    "FLOCKSTEP_AGGREGATOR_",
    "FLOCKSTEP_FAULTS",
    "FLOCKSTEP_HOME",
    "FLOCKSTEP_TRUST_PASSPHRASE",
)

#: What a resumed run may change: how long it goes on and how it is operated, never what it computes.
RESUMABLE = (
    "rounds",
    "listen",
    "keep_checkpoints",
    "cohort.deadline_s",
    "cohort.lease_s",
    "cohort.wait_s",
    "edges.",
    "evaluation.target",
    "evaluation.patience",
    "http.",
    "limits.",
    "log.",
    "services.",
    "trust.",
    "web.",
)

_DESCRIPTION = """\
Lead a training run: register learners, give them data and model, sum what they send back exactly, and \
commit every round to disk.

  python -m leader --data cifar10 --learners 2 --rounds 20
  python -m leader --data synthetic --exchange gradient --set train.lr=0.05
  python -m leader --resume runs/RUN --rounds 40"""

_KEYS = """\
config keys: where several of these set the same key, the first counts
  a flag            --rounds 20  --set train.lr=0.05
  the environment   FLOCKSTEP_ROUNDS=20  FLOCKSTEP_TRAIN__LR=0.05
  --config FILE     YAML; --print-config writes such a file
  --recipe NAME     settings that go together; --print-config shows them
  the default       in [brackets]
"""


@dataclass(frozen=True)
class Command:
    """What the user asked for."""

    config: RunConfig
    resume: Path | None  # run folder to go on from; `config.run_dir` is the same folder then
    print_config: bool  # print `config` and exit
    cut: RunFolder | None = None  # of a start that --continue finds cut before its first checkpoint

    def clear_away(self) -> None:
        """Make room for the run where an earlier start of it was cut before anything began."""
        if self.cut:
            self.cut.discard()


def parse(argv: list[str], environ: Mapping[str, str]) -> Command:
    """The command that `argv` (without the program's name) and the environment give.

    Raises ConfigError with one line for each problem; `--help`, `--version` and `--print-schema` raise SystemExit.
    """
    options = make_parser().parse_or_raise(argv, _set_spellings())
    recipe = {
        name: Given(value, f"--recipe {options.recipe}")
        for name, value in RECIPES.get(options.recipe, {}).items()
    }
    file = read_config(options.config) if options.config else {}
    environment = SCHEMA.from_environment(environ, IGNORED)
    flags = SCHEMA.from_text(options.settings)
    asked = {**recipe, **file, **environment, **flags}  # the one place of precedence: later ones win
    folder = _folder_to_continue(asked) if options.go_on else None
    resume = folder.path if folder and folder.begun else options.resume
    run = _run_file(resume) if resume else {}
    given = {**run, **asked}
    config = SCHEMA.build(given)
    if config.model.name and not config.model.task:
        _check_model_name(config.model.name, given)
    if resume:
        _check_resumable(SCHEMA.build(run), config, given)
    return Command(config, resume, options.print_config, None if resume else folder)


def make_parser() -> FlagParser:
    """The leader's flags."""
    parser = FlagParser(
        "python -m leader", "%(prog)s [--config FILE] [--set KEY=VALUE ...] [flags]", _DESCRIPTION
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with config keys (see below)")
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="settings that go together (see below)")
    parser.add_argument(
        "--set",
        dest=SETTINGS,
        action="append",
        type=_assignment,
        metavar="KEY=VALUE",
        help="set any config key, such as train.lr=0.05; may be repeated",
    )
    for flag, name, metavar in FLAGS:
        parser.add_key(flag, SCHEMA.keys[name], metavar)
    for flag, name, value, text in SWITCHES:
        parser.add_argument(flag, dest=SETTINGS, action="append_const", const=(flag, name, value), help=text)
    _add_resume(parser)
    parser.add_argument("--print-config", action="store_true", help="print the config as YAML and exit")
    parser.add_argument(
        "--print-schema", action=_PrintSchema, nargs=0, help="print the JSON Schema of such a file and exit"
    )
    changeable = ", ".join(f"{name}*" if name.endswith(".") else name for name in RESUMABLE)
    parser.epilog = "\n".join(
        [
            _KEYS,
            key_table(SCHEMA),
            "",
            paragraph(f"With --resume and --continue, only these may differ from the run's: {changeable}."),
        ]
    )
    return parser


def _add_resume(parser: FlagParser) -> None:
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", type=Path, metavar="RUN_DIR", help="go on with the run in this folder")
    again.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="go on with the run in --run-dir, or start it there: one command for service managers",
    )


class _PrintSchema(argparse.Action):
    """Prints what the keys of a config file are, and exits, as `--help` does."""

    def __call__(self, *_: Any) -> NoReturn:
        say(*dump_schema().splitlines())
        raise SystemExit(0)


def _assignment(text: str) -> tuple[str, str, str]:
    name, equals, value = text.partition("=")
    if not name.strip() or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as train.lr=0.05")
    return "--set", name.strip(), value.strip()


def _set_spellings() -> dict[str, list[str]]:
    """A key that somebody tried as a flag of its own, such as `--lr`, is meant for `--set`."""
    return {
        f"--set {key.name}=VALUE": [key.name, key.name.rpartition(".")[2], key.description]
        for key in SCHEMA.keys.values()
    }


def _folder_to_continue(asked: Mapping[str, Given]) -> RunFolder:
    from leader.storage.run_folder import RunFolder  # here, so that --help doesn't load numpy

    run_dir = asked["run_dir"].value if "run_dir" in asked else None
    if run_dir is None:
        raise ConfigError("--continue: say in which folder, each time the same: --run-dir DIR")
    return RunFolder(Path(str(run_dir)))


def _run_file(run_dir: Path) -> dict[str, Given]:
    if not run_dir.is_dir():
        raise ConfigError(f"--resume: {run_dir}: no such folder; give the folder of an earlier run")
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"--resume: {run_dir} has no config.yaml, so it is not the folder of a run")
    return read_config(path) | {"run_dir": Given(str(run_dir), "--resume")}  # it may have been moved


def _check_model_name(name: str, given: Mapping[str, Given]) -> None:
    from model.registry import model_names  # here, so that --help doesn't load torch

    names = list(model_names())
    if name in names:
        return
    meant = closest(name, {known: [] for known in names})
    hint = f"did you mean {meant}? " if meant else ""
    origin = given["model.name"].origin if "model.name" in given else "default"
    raise ConfigError(f"{origin}: model.name is {show(name)}; {hint}allowed: {', '.join(names)}")


def _check_resumable(run: RunConfig, config: RunConfig, given: Mapping[str, Given]) -> None:
    before, now = SCHEMA.values(run), SCHEMA.values(config)
    problems = [
        f"{given[name].origin}: {name} is {show(now[name])}, but this run has {show(before[name])} for good; "
        "leave it out, or start a new run without --resume"
        for name in now
        if now[name] != before[name] and not name.startswith(RESUMABLE)
    ]
    if problems:
        raise ConfigError(*problems)
