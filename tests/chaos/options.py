"""The command line of the chaos script."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

BATCH_SIZE = 32
ROUNDS_A_MINUTE = 28  # disturbed, measured on 2 cores with nothing else to do


@dataclass(frozen=True)
class Options:
    """What to run, and where its files go."""

    seed: int
    rounds: int
    learners: int
    exchange: str
    data: str
    lease_s: float
    edges: int
    below: int
    batch_size: int
    folder: Path
    json: Path | None

    @property
    def replay(self) -> str:
        """The command that repeats this run with the same faults."""
        return (
            f"python -m tests.chaos --seed {self.seed} --rounds {self.rounds} --learners {self.learners} "
            f"--exchange {self.exchange} --data {self.data} --lease-s {self.lease_s:g}"
            f"{f' --edges {self.edges}' if self.edges else ''}{f' --below {self.below}' if self.below else ''}"
            f"{f' --batch-size {self.batch_size}' if self.batch_size != BATCH_SIZE else ''}"
        )

    @property
    def settings(self) -> tuple[str, ...]:
        """The leader's settings, the same for the undisturbed and the disturbed run."""
        return (
            f"rounds={self.rounds}",
            f"learners={self.learners}",
            f"exchange={self.exchange}",
            f"data.source={self.data}",
            f"data.train_examples={1000 * self.learners}",
            "data.test_examples=200",
            "model.name=resnet20",
            f"train.batch_size={self.batch_size}",
            f"train.local_steps={2 if self.exchange == 'gradient' else 4}",
            "train.dtype=float32",
            "train.lr=0.05",
            f"seed={self.seed}",
            "evaluation.every=10",
            f"cohort.lease_s={self.lease_s:g}",
            "limits.chunk_bytes=65536",  # many chunks, so that the fault points lie in the middle
            "log.format=json",
            "log.level=debug",
        )


def parse(argv: Sequence[str] | None) -> Options:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Train under random faults and compare with the undisturbed run, bit for bit.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="about how long the disturbed run takes")
    parser.add_argument("--rounds", type=int, help="rounds to train, in place of --minutes")
    parser.add_argument("--seed", type=int, default=7, help="decides faults, data and weights")
    parser.add_argument("--learners", type=int, default=3, help="number of learners")
    parser.add_argument("--exchange", choices=("gradient", "delta"), default="delta")
    parser.add_argument("--data", default="synthetic", help="synthetic, or a folder with CIFAR-10")
    parser.add_argument("--lease-s", type=float, default=3.0, help="lease of the learners in seconds")
    parser.add_argument("--edges", type=int, default=0, help="edges that take the updates")
    parser.add_argument("--below", type=int, default=0, help="how many of them are under the first")
    parser.add_argument(
        "--batch-size", type=int, default=BATCH_SIZE, help="images of a step; fewer: more haste"
    )
    parser.add_argument("--dir", type=Path, help="new folder for runs and logs; default runs/chaos-DATE-TIME")
    parser.add_argument("--json", type=Path, help="file for the result as JSON")
    given = parser.parse_args(argv)
    if given.below and given.below >= given.edges:
        parser.error("--below: give fewer than --edges, as one is above them")
    return Options(
        seed=given.seed,
        rounds=given.rounds or max(2, round(given.minutes * ROUNDS_A_MINUTE)),
        learners=given.learners,
        exchange=given.exchange,
        data=given.data,
        lease_s=given.lease_s,
        edges=given.edges,
        below=given.below,
        batch_size=given.batch_size,
        folder=given.dir or Path("runs") / f"chaos-{datetime.now():%Y%m%d-%H%M%S}",
        json=given.json,
    )
