"""Seconds a step of synchronous training: Flockstep, DistributedDataParallel with gloo, and the naive design.

Two learners of one thread, the same model, batch, dtype, optimizer and link for all; short blocks of each in turn,
because the machine's speed drifts. A link is one learner's own (for DDP: the connection between the ranks), limited
in each direction; 20 ms are the round trip, 10 ms each way. Communication is what a step takes beyond that of
DDP under no_sync, which computes and steps, but sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from benchmarks.step_time.contenders import Compute, Contender, Ddp, Flockstep, Naive
from benchmarks.step_time.scene import Block, Link, run_scene
from model.precision import choose_dtype

LOOPBACK = Link("loopback")
GIGABIT = Link("1 Gbit/s", bytes_per_s=125e6)
SLOW = Link("100 Mbit/s, 20 ms", bytes_per_s=12.5e6, delay_s=0.010)
#: Codecs up and down. By bytes alone int8 both ways can't be more than 4 x as fast as float32, int4 not 8 x.
CODECS = (("int8", "int8"), ("int4", "int4"), ("powersgd", "int4"), ("powersgd", "topk"), ("topk", "topk"))
_AT_ONCE = 4  # contenders whose processes are in memory together
_TELLABLE = 0.05  # communication below this share of compute is not told from none
_MOST_STEP, _MOST_SLOW, _MOST_COMMUNICATION = 1.05, 1 / 8, 1 / 3

Measured = Mapping[str, Sequence[Block]]  # by what was measured


@dataclass(frozen=True)
class Scene:
    """Where contenders meet, and how often."""

    link: Link
    compute: Compute
    codecs: tuple[tuple[str, str], ...] = ()  # Flockstep's, beside none
    steps: int = 3  # timed, a block
    blocks: int = 3

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.link.name}, batch {self.compute.batch}, {self.compute.dtype}"

    def contenders(self) -> list[Contender]:
        """All of them; Flockstep and DDP side by side."""
        plain = [Flockstep(), Ddp(self.steps), Naive()]
        return plain + [Flockstep(up, down) for up, down in self.codecs]


#: What this processor multiplies natively; bfloat16 that it emulates would take ten times as long.
NATIVE = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
_LOOPBACK = Scene(LOOPBACK, Compute("resnet18", 64, NATIVE), steps=2, blocks=4)
_GIGABIT = Scene(GIGABIT, Compute("resnet18", 64, NATIVE), CODECS[:1], steps=2, blocks=2)
#: As little compute as may be, so that the link is what is measured: an accelerator's share is as small at 64.
_SLOW = Scene(SLOW, Compute("resnet18", 2, NATIVE), CODECS, steps=2, blocks=3)
FULL = (_LOOPBACK, _GIGABIT, _SLOW)
QUICK = (Scene(LOOPBACK, Compute("resnet9-w16", 64, NATIVE), blocks=1),)


def measure(quick: bool) -> Result:
    """What a step takes in each scene; quick: a small model on loopback, which promises nothing."""
    found = {scene: _run(scene) for scene in (QUICK if quick else FULL)}
    return summarise(found)


def _run(scene: Scene) -> Measured:
    measured: dict[str, Sequence[Block]] = {}
    for few in _batched(scene.contenders(), _AT_ONCE):
        measured |= run_scene(scene.link, scene.compute, few, steps=scene.steps, blocks=scene.blocks)
    return measured


def _batched(contenders: Sequence[Contender], size: int) -> Iterator[list[Contender]]:
    left = iter(contenders)
    while few := list(islice(left, size)):
        yield few


def summarise(found: Mapping[Scene, Measured]) -> Result:
    """Figures, ratios and, where their scenes are there, targets."""
    targets = tuple(_targets(found))
    return Result(
        entry="step_time",
        about=f"a training step of {next(iter(found)).compute.model}, 2 learners of 1 thread each; " + _NOTE,
        target=targets[0] if targets else None,
        further=targets[1:],
        figures=tuple(figure for scene, measured in found.items() for figure in _figures(scene, measured)),
        ratios={k: v for scene, measured in found.items() for k, v in _ratios(scene, measured).items()},
        series={k: v for scene, measured in found.items() for k, v in _series(scene, measured).items()},
    )


_NOTE = "rates are each direction's, 20 ms the round trip; DDP with PyTorch's defaults"


def _figures(scene: Scene, measured: Measured) -> Iterator[Figure]:
    for name, blocks in measured.items():
        yield Figure(f"{scene.name}: {name}", "s", _steps(blocks))
    borders = [block.border_s for block in measured[Flockstep.NAME] if block.border_s is not None]
    yield Figure(f"{scene.name}: Flockstep, added by the end of a round", "s", Spread.of(borders))


def _ratios(scene: Scene, measured: Measured) -> dict[str, float]:
    ratios = {
        f"{scene.name}: {name}, step to DDP's": _median(measured, name) / _median(measured, Ddp.SYNC)
        for name in measured
        if name.startswith(Flockstep.NAME)
    }
    naive = _communication(measured, Naive.NAME)
    if naive > _TELLABLE * _median(measured, Ddp.LOCAL):
        name = f"{scene.name}: Flockstep, communication to the naive design's"
        ratios[name] = _communication(measured, Flockstep.NAME) / naive
    return ratios


def _series(scene: Scene, measured: Measured) -> dict[str, Sequence[float]]:
    """Of each row: all steps, and of the last block what a step cost in CPU time and bytes of one link."""
    series: dict[str, Sequence[float]] = {}
    for name, blocks in measured.items():
        last = blocks[-1]
        key = f"{scene.name}: {name}"
        series[f"{key} | s"] = [step for block in blocks for step in block.steps]
        series[f"{key} | CPU-s of all processes"] = [last.cpu_s]
        if scene.link.bytes_per_s:
            series[f"{key} | MB up, MB down, CPU-s of the links"] = [
                last.used.bytes_up / 1e6,
                last.used.bytes_down / 1e6,
                last.used.cpu_s,
            ]
    return series


def _targets(found: Mapping[Scene, Measured]) -> Iterator[Target]:
    if _LOOPBACK in found:
        measured = found[_LOOPBACK]
        ratio = _median(measured, Flockstep.NAME) / _median(measured, Ddp.SYNC)
        yield Target(f"{_LOOPBACK.name}: step time to DDP's", "", ratio, _MOST_STEP)
        ours, naive = (_communication(measured, name) for name in (Flockstep.NAME, Naive.NAME))
        name = f"{_LOOPBACK.name}: communication a step, at most a third of the naive design's"
        yield Target(name, "s", ours, naive * _MOST_COMMUNICATION)
    if _SLOW in found:
        measured = found[_SLOW]
        coded = (name for name in measured if name.startswith(f"{Flockstep.NAME},"))
        best = min(_median(measured, name) for name in coded)
        name = f"{_SLOW.name}: step time of the fastest codec to DDP's"
        yield Target(name, "", best / _median(measured, Ddp.SYNC), _MOST_SLOW)


def _steps(blocks: Sequence[Block]) -> Spread:
    return Spread.of([step for block in blocks for step in block.steps])


def _median(measured: Measured, name: str) -> float:
    return _steps(measured[name]).median


def _communication(measured: Measured, name: str) -> float:
    return _median(measured, name) - _median(measured, Ddp.LOCAL)
