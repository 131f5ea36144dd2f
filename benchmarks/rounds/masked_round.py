"""Rounds with masks beside rounds without: idle ones, and ResNet-18 over lines of 100 Mbit/s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks import small_model
from benchmarks.fleet import FleetRun, run_fleet
from benchmarks.result import Figure, Result, Target
from benchmarks.spread import Spread

_PLAIN, _MASKED = "plain", "masked"
_SETTINGS: Mapping[str, Mapping[str, object]] = {_PLAIN: {}, _MASKED: {"secagg.mode": "masked"}}
_LINE_BYTES_PER_S = 100e6 / 8
_MORE_MS, _SLOWER = 5.0, 1.1


@dataclass(frozen=True)
class Scene:
    """What is run with masks and without."""

    name: str
    model: str
    learners: int
    rounds: int
    warmup: int
    turns: int
    line_bytes_per_s: float | None = None

    def run(self) -> Mapping[str, Sequence[FleetRun]]:
        """Both kinds in turns."""
        runs: dict[str, list[FleetRun]] = {name: [] for name in _SETTINGS}
        for turn in range(self.turns):
            for name in list(_SETTINGS)[:: -1 if turn % 2 else 1]:
                runs[name].append(self._once(_SETTINGS[name]))
        return MappingProxyType(runs)

    def _once(self, settings: Mapping[str, object]) -> FleetRun:
        return run_fleet(
            self.model,
            learners=self.learners,
            rounds=self.rounds,
            warmup=self.warmup,
            settings=settings,
            own_data=True,
            line_bytes_per_s=self.line_bytes_per_s,
        )


IDLE = Scene("idle", small_model.NAME, learners=8, rounds=200, warmup=20, turns=2)
LINES = Scene("ResNet-18, 100 Mbit/s", "resnet18", 16, 3, 1, 1, _LINE_BYTES_PER_S)
QUICK_IDLE = Scene("idle", small_model.NAME, learners=3, rounds=20, warmup=5, turns=1)
QUICK_LINES = Scene("resnet9-w16, 100 Mbit/s", "resnet9-w16", 3, 3, 1, 1, _LINE_BYTES_PER_S)


def measure(quick: bool) -> Result:
    """Training takes no time, so that masks have nothing to hide behind."""
    idle, lines = (QUICK_IDLE, QUICK_LINES) if quick else (IDLE, LINES)
    return result({scene: scene.run() for scene in (idle, lines)})


def result(found: Mapping[Scene, Mapping[str, Sequence[FleetRun]]]) -> Result:
    """Figures of both scenes, and what is promised of them; trips are those of loopback, which are nothing."""
    (idle, lines) = found
    idle_s, lines_s = (_round_s(runs) for runs in found.values())
    more_ms = 1e3 * (idle_s[_MASKED].median - idle_s[_PLAIN].median)
    return Result(
        entry="masked_round",
        about=f"no-op training, one machine: {idle.learners} idle learners, and {lines.learners} with {lines.name}",
        target=Target("idle round, masked, more than plain", "ms", more_ms, _MORE_MS),
        further=(
            Target(
                f"{lines.name}: round, masked, to plain",
                "",
                lines_s[_MASKED].median / lines_s[_PLAIN].median,
                _SLOWER,
            ),
        ),
        ratios={},
        figures=tuple(
            figure
            for scene, runs in found.items()
            for name in runs
            for figure in _figures(scene, name, runs[name])
        ),
    )


def _round_s(runs: Mapping[str, Sequence[FleetRun]]) -> Mapping[str, Spread]:
    return {name: Spread.of([run.round_s.median for run in own]) for name, own in runs.items()}


def _figures(scene: Scene, name: str, runs: Sequence[FleetRun]) -> tuple[Figure, ...]:
    what = f"{scene.name}, {name}"
    return (
        Figure(f"{what}: round", "ms", Spread.of([run.round_s.median * 1e3 for run in runs])),
        Figure(
            f"{what}: leader CPU a round", "ms", Spread.of([run.leader_cpu_s.median * 1e3 for run in runs])
        ),
        Figure(
            f"{what}: learner CPU a round", "ms", Spread.of([run.learner_cpu_s.median * 1e3 for run in runs])
        ),
    )
