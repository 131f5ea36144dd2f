"""`python -m scripts.simulate`: a whole run in one process, with virtual learners."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from leader import cli
from leader.config.yaml_file import dump_config
from scripts.simulate.simulation import Options, Outcome, simulate
from utils import faults
from utils.console import say
from utils.errors import INTERRUPTED, program
from utils.settings.flags import FlagParser, number, paragraph, whole

_DESCRIPTION = """\
Run leader and learners in one process, with virtual learners in place of real ones. The same config and seed \
give the same model, bit for bit, as real processes.

  python -m scripts.simulate --data synthetic --learners 1000 --set cohort.size=10
  python -m scripts.simulate --config run.yaml --workers 8
  python -m scripts.simulate --resume runs/RUN --rounds 40"""

_EPILOG = "All flags of python -m leader are taken as well; --learners is the number of virtual learners."


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
    """The simulation's own options, and the arguments that are the leader's; raises ConfigError."""
    own, rest = make_parser().parse_known_args(argv)
    options = Options(
        own.workers, own.batch_clients, own.ray, own.speed_spread, own.parts, own.device, display=True
    )
    return options, rest


def make_parser() -> FlagParser:
    """The simulation's own flags."""
    parser = FlagParser(
        "python -m scripts.simulate", "%(prog)s [flags] [flags of python -m leader]", _DESCRIPTION
    )
    many = whole(1, 10_000)
    parser.add_argument(
        "--workers", type=many, default=1, metavar="N", help="orders trained at once, one CPU thread each [1]"
    )
    parser.add_argument(
        "--batch-clients",
        type=many,
        default=1,
        metavar="N",
        help="orders trained as one batch, for small models on a GPU; the last places of weights depend on N [1]",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="train on a Ray cluster with N workers: auto or HOST:PORT; without ADDRESS one is started here",
    )
    parser.add_argument(
        "--speed-spread",
        type=number(lambda sigma: 0 <= sigma <= 10, "from 0 to 10"),
        default=0.0,
        metavar="SIGMA",
        help="virtual learners differ in speed: standard deviation of its logarithm [0]",
    )
    parser.add_argument(
        "--parts",
        type=Path,
        metavar="DIR",
        help="folder with an entry for each learner to bring, where data.holder is learner, such as "
        "those of scripts.partition",
    )
    parser.add_argument("--device", default="cpu", help="where to train: cpu, cuda, cuda:N [cpu]")
    parser.epilog = paragraph(_EPILOG)
    return parser


def run(argv: Sequence[str]) -> Outcome | None:
    """Simulate what `argv` asks for; None where the config was only to be shown. Raises FlockstepError."""
    options, rest = parse(argv)
    command = cli.parse(rest, os.environ)
    if command.print_config:
        say(*dump_config(command.config).splitlines())
        return None
    faults.arm(os.environ)
    command.clear_away()
    return simulate(command.config, options, resume=command.resume is not None)


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    outcome = run(sys.argv[1:] if argv is None else argv)
    if outcome is None:
        return 0
    if not outcome.reason:
        say(f"results are in {outcome.folder}", file=sys.stderr)
        return 0
    how = f"resume with: python -m scripts.simulate --resume {outcome.folder}"
    say(outcome.reason, how, file=sys.stderr)
    return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
