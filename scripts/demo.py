"""The demonstration: a leader and its learners on this machine train CIFAR-10 and show the result."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from scripts.children import Program, ProgramFailedError, StoppedError, run_together
from utils.datasets import download_cifar10, find_cifar10
from utils.errors import INTERRUPTED, DataError
from utils.wire.rpc import own_host

#: The recipe that the demonstration trains with, as `--set` values for the leader.
RECIPE = (
    "model.name=resnet9-w16",
    "exchange=delta",
    "train.local_epochs=1",
    "train.batch_size=128",
    "train.lr=0.4",
    "train.schedule=onecycle",
    "train.warmup=0.2",
)
ROUNDS = 7


def make_parser() -> argparse.ArgumentParser:
    """The flags of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.demo",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--data", type=Path, default=Path("data"), help="folder that CIFAR-10 is in or goes to"
    )
    parser.add_argument(
        "--synthetic", action="store_true", help="train on the built-in set; download nothing"
    )
    parser.add_argument("--learners", type=int, default=2, help="number of learners")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads a learner")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of training")
    parser.add_argument("--run-dir", type=Path, help="folder for results; default runs/demo-DATE-TIME")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of the leader"
    )
    return parser


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    return make_parser().parse_args(argv)


def choose_source(folder: Path) -> str:
    """`cifar10` when it is in `folder` or can be downloaded to it, else `synthetic`; tells which and why."""
    if found := find_cifar10(folder):
        print(f"data: CIFAR-10 in {found}")
        return "cifar10"
    print(f"data: no CIFAR-10 in {folder}/; downloading it ...")
    try:
        download_cifar10(folder)
    except DataError as error:
        print(f"data: {error}")
        print(
            "data: training on the built-in SYNTHETIC set instead; its accuracy says nothing about CIFAR-10"
        )
        return "synthetic"
    return "cifar10"


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def leader(options: argparse.Namespace, address: str, source: str, run_dir: Path) -> Program:
    """The leader, on this terminal."""
    settings = (
        *RECIPE,
        f"rounds={options.rounds}",
        f"data.source={source}",
        f"data.dir={options.data}",
        f"run_dir={run_dir}",
        *options.set,
    )
    flags = (flag for setting in settings for flag in ("--set", setting))
    learners = str(options.learners)
    return Program(
        "the leader",
        (sys.executable, "-m", "leader", "--listen", address, "--learners", learners, *flags),
    )


def learner(options: argparse.Namespace, address: str, run_dir: Path, number: int) -> Program:
    """Learner `number`, counted from 1, with its log in `run_dir`."""
    flags = ("--leader", address, "--threads", str(options.threads), "--name", f"demo-{number}")
    return Program(
        f"learner demo-{number}", (sys.executable, "-m", "learner", *flags), run_dir / f"learner-{number}.log"
    )


def result(run_dir: Path, host: str, python: str) -> str:
    """What a finished run in `run_dir` achieved, where its files lie, and how to use two machines."""
    summary = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return f"""
{summary["dataset"]}: test accuracy {summary["test_accuracy"]:.2%} in {summary["seconds"]:.0f} s of training
  curves  {run_dir / "curves.png"}
  model   {run_dir / "model.safetensors"}

To train across two machines, `make install` on both; then
  on this one:     {python} -m leader --listen 0.0.0.0:50051 --learners 2
  on each worker:  {python} -m learner --leader {host}:50051 --join TOKEN, as the leader prints it"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, show the result and return the exit code; nothing that it started is left running."""
    options = parse(argv)
    run_dir = options.run_dir or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        source = "synthetic" if options.synthetic else choose_source(options.data)
        run_dir.mkdir(parents=True, exist_ok=True)
        address = f"127.0.0.1:{free_port()}"
        learners = [learner(options, address, run_dir, number) for number in range(1, options.learners + 1)]
        print(
            f"starting the leader on {address} and {len(learners)} learners; their logs are in {run_dir}/",
            flush=True,
        )
        run_together(leader(options, address, source, run_dir), learners)
    except ProgramFailedError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except (StoppedError, KeyboardInterrupt):
        print("stopped; leader and learners have ended", file=sys.stderr)
        return INTERRUPTED
    print(result(run_dir, own_host(), os.path.relpath(sys.executable)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
