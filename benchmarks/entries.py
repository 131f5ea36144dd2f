"""The entries of `python -m benchmarks`: how each is measured, drawn and written up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import beside_flower, privacy
from benchmarks.endurance import leader_memory, robust_memory, sessions, soak, trust
from benchmarks.endurance.robust_memory_plot import draw_robust_memory
from benchmarks.endurance.sessions_plot import draw_sessions
from benchmarks.outcome import codecs, codecs_page, masked_accuracy, private_accuracy
from benchmarks.result import Result, document
from benchmarks.rounds import edges, idle_round, kafka_sums, masked_round, resnet18_round, watched_round
from benchmarks.scaling import learners, scaling, scaling_edges
from benchmarks.scaling import page as scaling_page
from benchmarks.scaling.learners_plot import draw_learners
from benchmarks.simulations import simulation
from benchmarks.step_time import step_time
from benchmarks.step_time.plot import draw_step_time
from benchmarks.transport import transport
from benchmarks.transport.plot import draw_transport

Machine = Mapping[str, object]
Measure = Callable[[bool, Path], Result]  # quick or not, the folder of CIFAR-10


@dataclass(frozen=True)
class Entry:
    """One measurement; its result is a JSON file, and a plot and a page where they are given."""

    measure: Measure
    draw: Callable[[Mapping[str, Sequence[float]], Path], None] | None = None
    page: Callable[[Result, Machine], str] | None = None
    named: bool = False  # it is long, or needs another package: measured only where it is asked for by name

    def write(self, result: Result, machine: Machine, folder: Path, *, quick: bool) -> None:
        """Leave the result in `folder`, in files of the entry's name."""
        path = folder / f"{result.entry}.json"
        path.write_text(document(result, machine, quick), encoding="utf-8")
        if self.draw is not None and result.series:
            self.draw(result.series, path.with_suffix(".png"))
        if self.page is not None and result.series:
            path.with_suffix(".md").write_text(self.page(result, machine), encoding="utf-8")


def _alone(measure: Callable[[bool], Result]) -> Measure:
    """An entry that needs no data."""
    return lambda quick, data: measure(quick)


ENTRIES: Mapping[str, Entry] = {
    "transport": Entry(_alone(transport.measure), draw_transport),
    "step_time": Entry(_alone(step_time.measure), draw_step_time),
    "codecs": Entry(codecs.measure, codecs_page.draw_codecs, codecs_page.page),
    "learners": Entry(_alone(learners.measure), draw_learners),
    "scaling": Entry(_alone(scaling.measure), scaling_page.draw_scaling, scaling_page.page),
    "idle_round": Entry(_alone(idle_round.measure)),
    "watched_round": Entry(_alone(watched_round.measure)),
    "resnet18_round": Entry(_alone(resnet18_round.measure)),
    "edges": Entry(_alone(edges.measure)),
    "scaling_edges": Entry(_alone(scaling_edges.measure)),
    "kafka": Entry(_alone(kafka_sums.measure)),
    "leader_memory": Entry(_alone(leader_memory.measure)),
    "robust_memory": Entry(_alone(robust_memory.measure), draw_robust_memory),
    "sessions": Entry(_alone(sessions.measure), draw_sessions),
    "simulation": Entry(_alone(simulation.measure), simulation.draw_simulation),
    "trust": Entry(_alone(trust.measure)),
    "masked_round": Entry(_alone(masked_round.measure)),
    "privacy": Entry(_alone(privacy.measure)),
    "beside_flower": Entry(_alone(beside_flower.measure), named=True),
    "masked_accuracy": Entry(masked_accuracy.measure, page=masked_accuracy.page, named=True),
    "private_accuracy": Entry(private_accuracy.measure, page=private_accuracy.page, named=True),
    "soak": Entry(_alone(soak.measure)),
}
