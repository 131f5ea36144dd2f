"""`python -m benchmarks.same_bits`: short runs by real processes, and the digest of the model that each ends in.

`--against CHECKOUT` makes each run with the code of that folder too, and the exit code is 1 if any ends
otherwise there. Two commits are compared on one machine, since bits depend on the processor and on torch.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from benchmarks.fleet import set_flags
from benchmarks.machine import describe_machine
from scripts.children import Program, ProgramFailedError, StoppedError, run_together
from scripts.demo import free_port

CHECKOUT = Path(__file__).parents[1]
CLASSES = 4
IMAGES = (24, 44, 12)  # a folder; all of them together are the data that a leader holds

#: What a run came to that no clock has a part in.
OUTCOME = ("model_sha256", "loss", "test_accuracy", "federated")

#: Local steps with batch norm and augmentation; an update is seven chunks and, where it is cut, seven pieces.
BASE: Mapping[str, object] = {
    "rounds": 4,
    "seed": 7,
    "model.name": "resnet9-w8",
    "train.batch_size": 16,
    "train.local_steps": 2,
    "train.dtype": "float32",
    "codec.piece_bytes": 64 << 10,
    "limits.chunk_bytes": 64 << 10,
}
_PLAIN_SGD = {"train.momentum": 0, "train.nesterov": False, "train.lr": 0.02}
_GRADIENT = {"exchange": "gradient", "data.partition": "dirichlet"}
_INT8 = {"codec.up": "int8", "codec.down": "int8", "codec.zstd": True}
_TOP_K = {"codec.up": "topk", "codec.down": "topk", "codec.fraction": 0.1}
_DILOCO = {"server.optimizer": "diloco", "server.lr": 0.7, "train.local_steps": 4}
_FRAGMENTS = {**_DILOCO, "streaming.fragments": 3, "streaming.overlap_steps": 2}
_SCORES = {"evaluation.holdout": 0.2, "evaluation.federated_every": 2}
_ADAPTIVE = {"server.lr": 0.05, "server.tau": 0.01}
_SHARDS = {"data.shards": 5, "data.partition": "dirichlet"}
#: Twice as many shards are given out as a round waits for.
_OVER_SELECTION = {"data.shards": 6, "cohort.size": 2, "cohort.over_selection": 2}


@dataclass(frozen=True)
class Run:
    """One run: what it changes from `BASE`, and who makes it."""

    settings: Mapping[str, object]
    learners: int = 2
    own_data: bool = False  # of the learners, each in a folder of its own
    simulated: tuple[str, ...] | None = None  # flags of a simulation in place of processes


#: Which updates an over-selected round or a buffer takes depends on who is quicker. One learner makes its orders
#: one after the other, and in a simulation the clock is virtual: in these two it is always the same ones.
RUNS: Mapping[str, Run] = {
    "delta": Run({}),
    "delta, evaluated": Run(
        {"data.source": "synthetic", "data.train_examples": 64, "data.test_examples": 64}
    ),
    "delta, three unequal shards": Run({"data.partition": "quantity"}, learners=3),
    "delta, cohort of 2 of 5 shards": Run({**_SHARDS, "cohort.size": 2}, learners=3),
    "gradient in pieces": Run(_GRADIENT),
    "gradient, whole": Run({**_GRADIENT, "train.pipeline": False}),
    "gradient in pieces, three learners": Run(
        {"exchange": "gradient", "data.partition": "quantity"}, learners=3
    ),
    "gradient in pieces, int8": Run({**_GRADIENT, **_INT8}),
    "gradient in pieces, top-k": Run({**_GRADIENT, **_TOP_K}),
    "gradient, whole, top-k": Run({**_GRADIENT, **_TOP_K, "train.pipeline": False}),
    "int8": Run(_INT8),
    "top-k": Run({**_TOP_K, **_SHARDS}),
    "PowerSGD and int4": Run({"codec.up": "powersgd", "codec.down": "int4"}),
    "DiLoCo": Run(_DILOCO),
    "DiLoCo in fragments": Run(_FRAGMENTS),
    "DiLoCo in fragments, encoded": Run({**_FRAGMENTS, **_INT8, "codec.up": "topk", "codec.fraction": 0.1}),
    "SCAFFOLD": Run({**_PLAIN_SGD, **_SHARDS, "train.control_variates": True}),
    "FedProx": Run({"train.proximal_mu": 0.1}),
    "FedBN": Run({**_SCORES, "model.local": "*.norm.*"}),
    "Ditto": Run({**_SCORES, "train.personal_lambda": 0.1}),
    "FedAvgM": Run({"server.optimizer": "fedavgm", "server.lr": 0.5}),
    "FedAdam": Run({**_ADAPTIVE, "server.optimizer": "fedadam"}),
    "FedYogi": Run({**_ADAPTIVE, "server.optimizer": "fedyogi"}),
    "FedAdagrad": Run({**_ADAPTIVE, "server.optimizer": "fedadagrad"}),
    "FedNova": Run({**_SHARDS, "aggregate.weighting": "fednova", "train.local_steps": 0}),
    "q-FedAvg": Run({**_SHARDS, "aggregate.weighting": "qfedavg"}),
    "median": Run({"aggregate.rule": "median"}, learners=3),
    "Multi-Krum": Run({**_SHARDS, "aggregate.rule": "multi_krum", "aggregate.byzantine": 1}),
    "clipped mean": Run({"aggregate.clip_norm": 0.1}),
    "over-selection, one learner": Run(_OVER_SELECTION, learners=1),
    "own data": Run({"data.source": "none", "model.classes": CLASSES}, learners=3, own_data=True),
    "FedBuff, one learner": Run({**_SHARDS, "buffer.size": 3}, learners=1),
    "delta, simulated": Run({}, simulated=()),
    "SCAFFOLD, simulated": Run({**_PLAIN_SGD, **_SHARDS, "train.control_variates": True}, simulated=()),
    "over-selection, simulated": Run(
        {**_OVER_SELECTION, "data.shards": 12}, learners=12, simulated=("--speed-spread", "1")
    ),
    "FedBuff, simulated": Run({"buffer.size": 3}, learners=8, simulated=("--speed-spread", "1")),
}

#: Runs that promise to end alike, whatever the commit.
ALIKE = (
    ("gradient in pieces", "gradient, whole"),
    ("gradient in pieces, top-k", "gradient, whole, top-k"),
    ("delta", "delta, simulated"),
    ("SCAFFOLD", "SCAFFOLD, simulated"),
)

Outcome = Mapping[str, Any]


def write_images(folder: Path) -> None:
    """A tree of classes with noise in place of photos in each of the folders own-1, own-2, ..., and all in `all`."""
    random = np.random.default_rng(5)
    for part, count in enumerate(IMAGES, 1):
        for number in range(count):
            image = Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8))
            for tree in (f"own-{part}", "all"):
                path = folder / tree / f"class-{number % CLASSES}" / f"{part}-{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)


def outcome(run: Run, checkout: Path, images: Path) -> Outcome:
    """What a run with the code of `checkout` came to: OUTCOME, or `failed` with the end of a program's log."""
    with tempfile.TemporaryDirectory(prefix="flockstep-same-bits-") as scratch:
        folder = Path(scratch)
        try:
            run_together(*_programs(run, checkout.resolve(), images, folder))
        except ProgramFailedError as error:
            return {"failed": str(error)}
        summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
        return {key: summary[key] for key in OUTCOME}


def _programs(run: Run, checkout: Path, images: Path, folder: Path) -> tuple[Program, list[Program]]:
    """The leader or the simulation, and its learners."""
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "learners": run.learners,
        "data.source": images / "all",
        "data.holder": "learner" if run.own_data else "leader",
        "listen": address,
        "run_dir": folder / "run",
        "log.format": "plain",
        **BASE,
        **run.settings,
    }
    sets = set_flags(settings)
    if run.simulated is not None:
        return _program("simulation", checkout, folder, "scripts.simulate", *run.simulated, *sets), []
    crew = []
    for number in range(1, run.learners + 1):
        name = f"learner-{number}"
        data = ("--data", str(images / f"own-{number}")) if run.own_data else ()
        flags = ("--leader", address, "--device", "cpu", "--threads", "1", "--name", name, *data)
        crew.append(_program(name, checkout, folder, "learner", *flags))
    return _program("leader", checkout, folder, "leader", *sets), crew


def _program(name: str, checkout: Path, folder: Path, module: str, *flags: str) -> Program:
    # Without -P the working folder would come before PYTHONPATH. How many threads add up a sum changes its bits.
    environment = (f"PYTHONPATH={checkout}", "OMP_NUM_THREADS=1", "CUDA_VISIBLE_DEVICES=")
    command = ("env", *environment, sys.executable, "-P", "-m", module, *flags)
    return Program(name, command, folder / f"{name}.log")


def wrong(ours: Mapping[str, Outcome], theirs: Mapping[str, Outcome] | None) -> list[str]:
    """The runs that failed, that ended otherwise than `theirs`, and those that should be ALIKE and are not."""
    failed = [name for name, ended in ours.items() if "failed" in ended]
    differing = [name for name, ended in ours.items() if theirs is not None and theirs.get(name) != ended]
    digests = {name: ended["model_sha256"] for name, ended in ours.items() if "failed" not in ended}
    unlike = [
        other for one, other in ALIKE if {one, other} <= set(digests) and digests[one] != digests[other]
    ]
    return list(dict.fromkeys(failed + differing + unlike))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.same_bits", description=__doc__)
    parser.add_argument(
        "--against", type=Path, help="another checkout, or a file that --out wrote on this machine"
    )
    parser.add_argument("--out", type=Path, help="JSON file for what the runs of this checkout came to")
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"{'; '.join(RUNS)}; default: all")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(RUNS)):
        parser.error(f"no run {', '.join(unknown)}; there are {'; '.join(RUNS)}")
    if options.against and not options.against.exists():
        parser.error(f"no checkout or file {options.against}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Make the runs; the exit code is 1 when one failed or ended otherwise than it should."""
    options = parse(argv)
    names = options.names or list(RUNS)
    try:
        ours, theirs = _measure(names, options.against, Console(soft_wrap=True))
    except (StoppedError, KeyboardInterrupt):
        return 130
    if options.out:
        content = {"machine": describe_machine(), "runs": ours}
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    bad = wrong(ours, theirs if options.against else None)
    print(f"{len(ours)} runs, {'wrong: ' + '; '.join(bad) if bad else 'all as they should be'}")
    return 1 if bad else 0


def _measure(
    names: Sequence[str], against: Path | None, console: Console
) -> tuple[dict[str, Outcome], dict[str, Outcome]]:
    """What the runs came to here and, in turns with that, there; a line each is shown."""
    ours: dict[str, Outcome] = {}
    theirs: dict[str, Outcome] = {}
    if against and against.is_file():
        theirs = json.loads(against.read_text(encoding="utf-8"))["runs"]
    with tempfile.TemporaryDirectory(prefix="flockstep-same-bits-") as scratch:
        images = Path(scratch)
        write_images(images)
        for name in names:
            ours[name] = outcome(RUNS[name], CHECKOUT, images)
            if against and against.is_dir():
                theirs[name] = outcome(RUNS[name], against, images)
            differs = bool(against) and theirs.get(name) != ours[name]
            there = f"  THERE {_shown(theirs.get(name))}" if differs else ""
            console.print(f"{name:36} {_shown(ours[name])}{there}", highlight=False, markup=False)
    return ours, theirs


def _shown(ended: Outcome | None) -> str:
    if ended is None:
        return "no such run"
    if "failed" in ended:
        return f"FAILED: {ended['failed']}"
    scores = [f"{key} {ended[key]}" for key in OUTCOME[1:] if isinstance(ended[key], float)]
    return f"{ended['model_sha256'][:32]}  {', '.join(scores)}"


if __name__ == "__main__":
    sys.exit(main())
