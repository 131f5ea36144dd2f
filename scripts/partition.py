"""Shows how a data set is split among learners, and writes each part to a file of its own."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from leader.data.partition import Kind, partition
from scripts.partition_plot import Panel, draw_split
from utils.console import open_console, printable
from utils.datasets import Dataset, open_dataset, save_dataset
from utils.errors import ConfigError, program
from utils.files import replace_file
from utils.settings.flags import FlagParser, number, whole

FORMAT = "flockstep-partition-1"
SKEWED = ("dirichlet", "quantity")  # the kinds that alpha means something for
PARTS = 10
MOST_ROWS = 20  # a table of more parts tells least, median and most only

_DESCRIPTION = """\
Split a data set as a leader with the same settings and seed does; show the parts, and write them for \
learners on other machines.

  python -m scripts.partition --kind dirichlet --alpha 0.1
  python -m scripts.partition --kind dirichlet --alpha 0.1 100
  python -m scripts.partition --data photos --kind groups --out parts
  python -m learner --leader 10.0.0.1:50051 --data parts/part-00003.safetensors"""


@dataclass(frozen=True)
class Split:
    """One split of a data set."""

    data: Dataset
    kind: Kind
    alpha: float | None  # None where it means nothing
    classes_per_shard: int | None  # None where it means nothing
    seed: int
    parts: tuple[NDArray[np.int64], ...]  # indices of the examples of each

    @property
    def counts(self) -> NDArray[np.int64]:
        """Examples by part and class, (parts, classes)."""
        classes = len(self.data.classes)
        return np.stack([np.bincount(self.data.labels[part], minlength=classes) for part in self.parts])

    @property
    def names(self) -> tuple[str, ...]:
        """The groups that are the parts, in order; empty where parts are not groups."""
        groups = self.data.groups
        if self.kind != "groups" or groups is None or len(np.unique(groups)) != len(self.parts):
            return ()
        return tuple(self.data.group_names[groups[part[0]]] for part in self.parts)

    @property
    def title(self) -> str:
        """The kind and what it depends on, such as `dirichlet, alpha 0.5, seed 0`."""
        details = [str(self.kind)]
        if self.alpha is not None:
            details.append(f"alpha {self.alpha:g}")
        if self.classes_per_shard is not None:
            details.append(f"{self.classes_per_shard} pieces a part")
        if self.kind != "groups":
            details.append(f"seed {self.seed}")
        return ", ".join(details)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options of the command line; raises ConfigError."""
    options = make_parser().parse_or_raise(argv, {})
    if options.out is not None and len(options.alpha) > 1:
        raise ConfigError("--out: parts of several --alpha can't be in one folder; give one --alpha")
    if options.kind not in SKEWED and len(options.alpha) > 1:
        raise ConfigError(f"--alpha: {options.kind} does not depend on it; use --kind dirichlet or quantity")
    return options


def make_parser() -> FlagParser:
    """The flags of the command line."""
    parser = FlagParser("python -m scripts.partition", "%(prog)s [flags]", _DESCRIPTION)
    parser.add_argument(
        "--data", default="cifar10", metavar="SOURCE", help="cifar10, synthetic, a folder or a file [cifar10]"
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where CIFAR-10 is [data]"
    )
    parser.add_argument(
        "--parts",
        type=whole(1, 1_000_000),
        metavar="N",
        help=f"parts to make [{PARTS}; with groups, one a group]",
    )
    parser.add_argument("--kind", choices=get_args(Kind), default="iid", help="how to split [iid]")
    parser.add_argument(
        "--alpha",
        type=number(lambda alpha: 0 < alpha < math.inf, "above 0"),
        nargs="+",
        default=[0.5],
        metavar="A",
        help="Dirichlet concentration (dirichlet, quantity); several are shown side by side [0.5]",
    )
    parser.add_argument(
        "--classes-per-shard",
        type=whole(1, 1_000_000),
        default=2,
        metavar="N",
        help="pieces a part (classes) [2]",
    )
    parser.add_argument(
        "--seed", type=whole(0, 2**63 - 1), default=0, metavar="N", help="seed, as the leader's [0]"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="new folder to write the parts to")
    parser.add_argument(
        "--plot", type=Path, default=Path("partition.png"), metavar="FILE", help="picture [partition.png]"
    )
    return parser


def split(options: argparse.Namespace, data: Dataset) -> list[Split]:
    """The splits that were asked for, one for each alpha; raises ConfigError."""
    skewed = options.kind in SKEWED
    splits = []
    for alpha in options.alpha:
        parts = partition(
            data.labels,
            options.parts or (0 if options.kind == "groups" else PARTS),
            kind=options.kind,
            alpha=alpha,
            seed=options.seed,
            classes_per_shard=options.classes_per_shard,
            groups=data.groups,
        )
        each = options.classes_per_shard if options.kind == "classes" else None
        splits.append(Split(data, options.kind, alpha if skewed else None, each, options.seed, parts))
    return splits


def table(split: Split) -> Table:
    """Examples, classes present and largest class share of each part, or their spread over many parts."""
    counts = split.counts
    sizes = counts.sum(axis=1)
    present, share = np.count_nonzero(counts, axis=1), counts.max(axis=1) / sizes
    shown = Table()
    if len(counts) > MOST_ROWS:
        for heading in ("of a part", "least", "median", "most"):
            shown.add_column(heading, justify="left" if heading == "of a part" else "right")
        for name, values, text in (
            ("examples", sizes, "{:.10g}"),
            ("classes present", present, "{:.10g}"),
            ("largest class share", share, "{:.1%}"),
        ):
            shown.add_row(name, *(text.format(np.quantile(values, at)) for at in (0, 0.5, 1)))
        return shown
    shown.add_column("group" if split.names else "part")
    for heading in ("examples", "classes present", "largest class share"):
        shown.add_column(heading, justify="right")
    shown.add_column("largest class")
    for part, row in enumerate(counts):
        name = split.names[part] if split.names else str(part)
        largest = split.data.classes[row.argmax()]
        cells = (name, str(sizes[part]), str(present[part]), f"{share[part]:.1%}", largest)
        shown.add_row(*map(Text, cells))
    return shown


def picture(splits: Sequence[Split]) -> bytes:
    """A PNG of `splits`, which are of one data set and kind, side by side."""
    first = splits[0]
    panels = [Panel(split.title, split.counts, [printable(name) for name in split.names]) for split in splits]
    heading = f"{printable(first.data.name)} in {len(first.parts)} parts"
    return draw_split(panels, [printable(name) for name in first.data.classes], heading)


def check_out(folder: Path) -> None:
    """Raise ConfigError unless `folder` is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {folder} is there already and is not an empty folder; choose another")


def write(split: Split, folder: Path) -> None:
    """Write a file for each part and partition.json to `folder`, which appears whole or not at all.

    Raises ConfigError when the folder is not empty or can't be written.
    """
    check_out(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
            partial = Path(name) / "parts"
            partial.mkdir()
            files = {}
            for number, part in enumerate(split.parts):
                file = f"part-{number:05}.safetensors"
                files[file] = save_dataset(split.data.select(part), partial / file)
            replace_file(partial / "partition.json", (json.dumps(_summary(split, files)) + "\n").encode())
            partial.rename(folder)
    except OSError as error:
        raise ConfigError(f"--out {folder} can't be written: {error.filename}: {error.strerror}") from error


def _summary(split: Split, files: dict[str, str]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "dataset": split.data.name,
        "fingerprint": split.data.fingerprint(),
        "kind": split.kind,
        "alpha": split.alpha,
        "classes_per_shard": split.classes_per_shard,
        "seed": split.seed,
        "classes": split.data.classes,
        "groups": split.names,
        "counts": split.counts.tolist(),  # parts x classes
        "sha256": files,
    }


def run(argv: Sequence[str]) -> None:
    """Split, show and write; raises FlockstepError."""
    options = parse(argv)
    if options.out is not None:
        check_out(options.out)
    splits = split(options, open_dataset(options.data, options.data_dir).train)
    console = open_console()
    for made in splits:
        console.print(f"{made.data.name} in {len(made.parts)} parts: {made.title}")
        console.print(table(made))
    try:
        replace_file(options.plot, picture(splits))
    except OSError as error:
        raise ConfigError(f"--plot {options.plot} can't be written: {error.strerror}") from error
    console.print(f"picture: {options.plot}", soft_wrap=True)
    if options.out is not None:
        write(splits[0], options.out)
        text = f"parts: {options.out}, for python -m learner --data {options.out}/part-00000.safetensors"
        console.print(text, soft_wrap=True)


@program
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    run(sys.argv[1:] if argv is None else argv)
    return 0


if __name__ == "__main__":
    sys.exit(main())
