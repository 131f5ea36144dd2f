"""A masked round beside Flower's SecAgg+: CPU time at a client and at the server, and bytes.

Both hide as many values of as many clients from the server, need as many shares, and lose one client once it has shared
its keys. Ours runs here, Flower's in a process of its own (benchmarks/flower_masks.py), by a Python that has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.masks import LEARNERS, MODEL, RESNET18, SMALL, Cohort
from benchmarks.result import Figure, Result, SkippedError, Target
from benchmarks.spread import Spread
from leader.secagg.unmasking import seeds
from learner.secagg.member import MaskMember
from utils.codecs.files import File
from utils.secagg.masks import add_streams
from utils.secagg.ring import COARSE, WORDS
from utils.secagg.update import VALUES, WIDE, ring_of, words_of

PYTHON = "FLOWER_PYTHON"  # the environment variable that names a Python with flwr
_VERSION = "1.42.0"
_EXAMPLES = 1000
_FASTER = 1 / 15


@dataclass(frozen=True)
class Side:
    """What one round took."""

    client_s: list[float]  # CPU of each client whose update is in the sum
    server_s: list[float]  # CPU of the server, a round
    up: float  # bytes of such a client
    down: float  # but for the model
    error: float  # largest, of a mean


def measure(quick: bool) -> Result:
    """Flower's round, then ours; raises SkippedError without flwr."""
    size, turns = (SMALL, 1) if quick else (RESNET18, 3)
    theirs = flower(size, 2 * LEARNERS // 3 + 1)
    base = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    rounds = [(ours(base), ours(base, COARSE)) for _ in range(turns)]
    fine, coarse = (_merged(of_ring) for of_ring in zip(*rounds, strict=True))
    return compare(theirs, fine, coarse, size)


def _merged(rounds: Sequence[Side]) -> Side:
    return Side(
        [seconds for each in rounds for seconds in each.client_s],
        [seconds for each in rounds for seconds in each.server_s],
        rounds[0].up,
        rounds[0].down,
        max(each.error for each in rounds),
    )


def flower(size: int, threshold: int) -> Side:
    """One round of Flower's, by the Python that has it."""
    python = os.environ.get(PYTHON, sys.executable)
    asked = [python, "-c", "from importlib.metadata import version; print(version('flwr'))"]
    version = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()
    if version != _VERSION:
        raise SkippedError(
            f"flwr {version or 'is not'} in {python}, and {_VERSION} is compared with: python -m venv /tmp/flower && "
            f"/tmp/flower/bin/pip install flwr=={_VERSION}, then set {PYTHON}=/tmp/flower/bin/python"
        )
    flags = {"--values": size, "--clients": LEARNERS, "--threshold": threshold}
    words = [str(word) for pair in flags.items() for word in pair]
    command = [python, str(Path(__file__).with_name("flower_masks.py")), *words]
    told = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return Side(told["client_s"], [told["server_s"]], told["up"], told["down"], told["error"])


def ours(base: np.ndarray, bits: int = 32) -> Side:
    """The same round here, with masks of so many bits: what it takes, and that its mean is right."""
    cohort = Cohort(LEARNERS, lost=1, bits=bits)
    ring, total = ring_of(cohort.plan), np.zeros(base.size, WORDS[bits])
    factors = iter(np.linspace(0.1, 1.0, LEARNERS, dtype=np.float32)[1:])
    client_s: list[float] = []
    server_s, sent = 0.0, 0

    def send(member: MaskMember) -> None:
        nonlocal server_s, sent
        update = base * next(factors)
        began = time.process_time()
        words, wide, _ = words_of(cohort.plan, update, update.size, _EXAMPLES, 0.0)
        member.mask(words, wide, MODEL)
        file = File.of({VALUES: words.view(f"i{words.itemsize}"), WIDE: wide.view(np.int64)}, {})
        masked = time.process_time()
        np.add(total, words, out=total)
        client_s.append(masked - began)
        server_s, sent = server_s + time.process_time() - masked, file.total_bytes

    unmask = cohort.close(send)
    began = time.process_time()
    found = seeds(unmask.seated, unmask.survivors, unmask.answers, MODEL)
    add_streams(total, [s[:32] for s in found.plus], [s[:32] for s in found.minus])
    mean = ring.means(total, LEARNERS - 1)
    server_s += cohort.leader_s + time.process_time() - began
    expected = base * np.linspace(0.1, 1.0, LEARNERS, dtype=np.float32)[1:].mean()
    return Side(
        [seconds + cohort.learner_s / LEARNERS for seconds in client_s],
        [server_s],
        sent + cohort.up / LEARNERS,
        cohort.down / LEARNERS,
        float(np.abs(mean - expected).max()),
    )


def compare(theirs: Side, fine: Side, coarse: Side, size: int) -> Result:
    """Figures of all three, and what is promised: ratios of ours, with masks of 32 and of 16 bits, to theirs."""
    sides = {"Flower": theirs, "32 bits": fine, "16 bits": coarse}
    promised = [target for name in list(sides)[1:] for target in _promised(name, sides[name], theirs)]
    return Result(
        entry="beside_flower",
        about=f"{size:,} values, {LEARNERS} clients of whom one is lost once it has shared its keys, masks of 32 bits "
        f"and of 16; Flower {_VERSION}'s SecAgg+ in process: its workflow, its mod, without wire and strategy",
        target=promised[0],
        further=tuple(promised[1:]),
        figures=tuple(figure for name, side in sides.items() for figure in _figures(name, side)),
        ratios={
            target.name.replace("to Flower's", "Flower's to it"): 1 / target.value for target in promised
        },
    )


def _promised(name: str, side: Side, theirs: Side) -> tuple[Target, ...]:
    client = Spread.of(side.client_s).median / Spread.of(theirs.client_s).median
    server = Spread.of(side.server_s).median / Spread.of(theirs.server_s).median
    return (
        Target(f"{name}: CPU of a client, to Flower's", "", client, _FASTER),
        Target(f"{name}: CPU of the server, to Flower's", "", server, _FASTER),
        Target(f"{name}: bytes up of a client, to Flower's", "", side.up / theirs.up, 0.5),
    )


def _figures(name: str, side: Side) -> tuple[Figure, ...]:
    return (
        Figure(f"{name}: CPU of a client", "ms", Spread.of(side.client_s).scaled(1e3)),
        Figure(f"{name}: CPU of the server", "ms", Spread.of(side.server_s).scaled(1e3)),
        Figure(f"{name}: up, a client", "MB", Spread.of([side.up / 1e6])),
        Figure(f"{name}: down but for the model, a client", "kB", Spread.of([side.down / 1e3])),
        Figure(f"{name}: largest error of a mean", "1e-6", Spread.of([side.error * 1e6])),
    )
