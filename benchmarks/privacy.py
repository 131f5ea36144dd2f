"""What privacy costs: the noise of a model beside numpy's, an update's way to the lattice, and masks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from benchmarks import masks
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread
from utils.dp.discrete_gaussian import DiscreteGaussian
from utils.dp.lattice import to_lattice

_VALUES = 11_173_962  # parameters of a ResNet-18
_QUICK_VALUES = 412_954  # of a resnet9-w16
_KEY = bytes(32)
_THREE, _TWO, _NUMPY = "noise, three levels", "noise, two levels", "numpy's float32 normal"
_LATTICE = "an update to the lattice"
_SIGMA = 65_568


def measure(quick: bool) -> Result:
    """Each in turns, in CPU time of one process, so that others at work on the machine count little."""
    size, turns = (_QUICK_VALUES, 5) if quick else (_VALUES, 9)
    generator = np.random.default_rng(0)
    update = generator.standard_normal(size, np.float32)
    work: Mapping[str, Callable[[], object]] = {
        _THREE: lambda: DiscreteGaussian((32, 32)).draw(_KEY, size),
        _TWO: lambda: DiscreteGaussian((32,)).draw(_KEY, size),
        _NUMPY: lambda: generator.standard_normal(size, np.float32),
        _LATTICE: lambda: to_lattice(update, 1.0, _SIGMA),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(turns):
        for name, do in work.items():
            seconds[name].append(_cpu_s(do))
    noise = result({name: Spread.of(values) for name, values in seconds.items()}, size)
    further, figures = masks.targets(quick)
    return replace(noise, further=further, figures=(*noise.figures, *figures))


def _cpu_s(do: Callable[[], object]) -> float:
    began = time.process_time()
    do()
    return time.process_time() - began


def result(found: Mapping[str, Spread], size: int) -> Result:
    """Figures in ms, ratios, and what is promised of them."""
    ratios = {name: found[name].median / found[_NUMPY].median for name in (_THREE, _TWO, _LATTICE)}
    return Result(
        entry="privacy",
        about=f"{size:,} values, CPU time of one thread, in turns",
        target=Target(f"{_THREE}, to {_NUMPY}", "", ratios[_THREE], 1.0),
        figures=tuple(Figure(name, "ms", spread.scaled(1e3)) for name, spread in found.items()),
        ratios={f"{name}, to {_NUMPY}": ratio for name, ratio in ratios.items()},
    )
