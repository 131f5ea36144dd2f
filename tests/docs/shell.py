"""Commands of the docs, run in this process: the same flags, on less data and for fewer rounds."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

import benchmarks.__main__
import leader.__main__
from leader import cli
from leader.config import RunConfig
from learner import options
from scripts import command, partition, privacy, weights
from scripts.simulate import __main__ as simulate
from tests.docs.blocks import ROOT, words_of

PRINTS = ("--print-config", "--print-schema", "--help")
ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


def run(line: str, patch: pytest.MonkeyPatch) -> None:
    """Run a command in the working directory; AssertionError where that fails, or nobody knows how to."""
    before, _, target = line.partition(" > ")
    words = words_of(before)
    while ASSIGNMENT.fullmatch(words[0]):
        name, _, value = words.pop(0).partition("=")
        patch.setenv(name, value)
    runner, argv = _runner(words)
    with contextlib.redirect_stdout(io.StringIO()) as printed, patch.context() as own:
        own.setattr(sys, "argv", [words[0], *argv])
        try:
            runner(argv)
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(f"{line}: exit code {ended.code}") from None
    if target:
        Path(target.strip()).expanduser().write_text(printed.getvalue(), encoding="utf-8")


def check(line: str) -> None:
    """Check the flags of a command that is not run; one that is not of this project is let pass."""
    words = words_of(line)
    for known, look in ((_LEADER, cli.parse), (_LEARNER, options.parse)):
        for name in known:
            if words[: len(name)] == list(name):
                look(words[len(name) :], {})
    if words[0] == "make":
        _make(*words[1:])


def _runner(words: list[str]) -> tuple[Callable[[list[str]], object], list[str]]:
    """What runs a command in this process, and the arguments that are left for it."""
    for name, runner in _RUNNERS.items():
        if tuple(words[: len(name)]) == name:
            return runner, words[len(name) :]
    raise AssertionError(
        f"no test knows how to run {' '.join(words)!r}: add it to tests/docs/shell.py, or mark it"
    )


def _lead(argv: list[str]) -> None:
    """A leader and its learners: in one process, which runs the leader's own code."""
    if any(flag in argv for flag in PRINTS):
        assert leader.__main__.main() == 0
    else:
        _simulate(argv)


def _simulate(argv: list[str]) -> None:
    outcome = simulate.run([*argv, *_smaller(argv)])
    assert outcome is not None
    assert not outcome.reason


def _smaller(argv: list[str]) -> list[str]:
    """Flags that make the run of `argv` a short one of the same kind."""
    if "--resume" in argv:
        return []
    config = cli.parse(simulate.parse(argv)[1], os.environ).config
    settings = {
        "run_dir": f"runs/{len(list(Path().glob('runs/*')))}",
        "rounds": min(config.rounds, 2 if config.streaming.fragments else 1),
        "train.batch_size": 4,
        "train.local_steps": _steps(config),
        "evaluation.every": min(config.evaluation.every, 1),
    }
    if config.data.source in ("cifar10", "synthetic"):
        examples = max(8 * config.learners, 40)
        settings |= {"data.source": "synthetic", "data.train_examples": examples, "data.test_examples": 20}
    if config.model.name:
        settings |= {"model.name": "resnet9-w8"}
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]


def _steps(config: RunConfig) -> int:
    """Few local steps, but what fragments need."""
    fewest = max(config.streaming.fragments, config.streaming.overlap_steps + 1, 2)
    return min(config.train.local_steps, fewest)


def _split(argv: list[str]) -> None:
    partition.run([*argv, *([] if "--data" in argv else ["--data", "synthetic"])])


def _write_weights(argv: list[str]) -> None:
    assert weights.main(argv) == 0


def _plan_privacy(argv: list[str]) -> None:
    assert privacy.main(argv) == 0


def _bench(argv: list[str]) -> None:
    benchmarks.__main__.parse(argv)


def _flockstep(argv: list[str]) -> None:
    if argv[0] == "simulate":
        _simulate(argv[1:])
    else:
        assert command.main() == 0


@functools.cache
def _make(*argv: str) -> None:
    """Have make say what it would run, and check the flags of benchmarks."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(
        ["make", "-n", "PYTHON=python3", *argv], cwd=ROOT, env=own, check=True, capture_output=True, text=True
    )
    for line in made.stdout.splitlines():
        _, found, rest = line.partition("-m benchmarks ")
        if found:
            _bench(words_of(rest))


def _make_folder(argv: list[str]) -> None:
    Path(argv[0]).expanduser().mkdir(parents=True, exist_ok=True)


_LEADER = (("python", "-m", "leader"), ("flockstep", "leader"))
_LEARNER = (("python", "-m", "learner"), ("flockstep", "learner"))
_RUNNERS: Mapping[tuple[str, ...], Callable[[list[str]], object]] = {
    ("python", "-m", "leader"): _lead,
    ("python", "-m", "scripts.simulate"): _simulate,
    ("python", "-m", "scripts.partition"): _split,
    ("python", "-m", "scripts.weights"): _write_weights,
    ("python", "-m", "scripts.privacy"): _plan_privacy,
    ("python", "-m", "benchmarks"): _bench,
    ("flockstep",): _flockstep,
    ("make",): lambda argv: _make(*argv),
    ("mkdir", "-p"): _make_folder,
}
