"""`python -m scripts.weights`: write a task's initial weights, for a leader that doesn't know the task."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from leader.global_model.initial import tensors_of, weights_metadata
from model.flat import FlatModel
from model.task import load_task
from utils.errors import ConfigError, program
from utils.settings.flags import FlagParser

_DESCRIPTION = """\
Write the initial weights of a task of your own to a safetensors file. A leader that starts from it \
(model.weights) needs nothing but the file: neither the task's code nor what that imports.

  python -m scripts.weights --task my_tasks.digits:Digits --out start.safetensors
  python -m leader --set model.name= --set model.weights=start.safetensors --data none --set data.holder=learner"""


def make_parser() -> FlagParser:
    """The flags of the command line."""
    parser = FlagParser("python -m scripts.weights", "%(prog)s --task MODULE:NAME --out FILE", _DESCRIPTION)
    parser.add_argument(
        "--task", required=True, metavar="MODULE:NAME", help="the task, as package.module:Name"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="safetensors file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights [0]")
    return parser


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Build the model and write it; returns the exit code."""
    options = make_parser().parse_or_raise(sys.argv[1:] if argv is None else argv, {})
    model = FlatModel(load_task(options.task, "--task").build_model(options.seed))
    try:
        options.out.write_bytes(save(tensors_of(model), weights_metadata(model.layout)))
    except OSError as error:
        raise ConfigError(f"--out: can't write {options.out}: {error.strerror}") from error
    print(f"{options.out}: {model.layout.parameter_count:,} parameters, {len(model.layout.entries)} tensors")
    return 0


if __name__ == "__main__":
    sys.exit(main())
