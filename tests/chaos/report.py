"""What a chaos run came to: a table for people and JSON for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from rich.table import Table

from tests.chaos.ledger import Injury
from tests.chaos.options import Options
from tests.chaos.plan import Fault


@dataclass(frozen=True)
class Row:
    """All faults of one name."""

    name: str
    planned: int
    injected: int
    begun_again: int
    sent_again: int
    trained_again: int
    refused: int
    recovery_s: float | None  # median time to the next commit

    @classmethod
    def of(cls, name: str, planned: int, injuries: Sequence[Injury]) -> Row:
        """The row of the faults called `name`."""
        times = [injury.recovered_s for injury in injuries if injury.recovered_s is not None]
        return cls(
            name,
            planned,
            len(injuries),
            sum(injury.begun_again for injury in injuries),
            sum(injury.sent_again for injury in injuries),
            sum(injury.trained_again for injury in injuries),
            sum(injury.refused for injury in injuries),
            median(times) if times else None,
        )


@dataclass(frozen=True)
class Outcome:
    """How a chaos run ended."""

    options: Options
    plan: tuple[Fault, ...]
    injuries: tuple[Injury, ...]
    undisturbed_s: float
    disturbed_s: float
    leader_starts: int
    sha256: tuple[str, str]  # of the undisturbed and the disturbed run's weights; "" if it did not end
    violation: str | None

    @property
    def identical(self) -> bool:
        """Whether both runs ended in the same bits."""
        return bool(self.sha256[0]) and self.sha256[0] == self.sha256[1]

    @property
    def rows(self) -> list[Row]:
        """One for each name of a planned fault, and one for all."""
        names = sorted({fault.name for fault in self.plan})
        rows = [
            Row.of(
                name,
                sum(fault.name == name for fault in self.plan),
                [injury for injury in self.injuries if injury.fault.name == name],
            )
            for name in names
        ]
        return [*rows, Row.of("all", len(self.plan), self.injuries)]

    def table(self) -> Table:
        """The faults and what they cost; a committed round or an accepted update is never among it."""
        table = Table(
            title=f"{self.options.rounds} rounds under {len(self.injuries)} faults: {self.options.replay}",
            caption="lost: committed rounds; begun again: rounds that were open; sent again, trained again, "
            "refused (late or repeated): updates; recovery: median seconds to the next commit",
        )
        table.add_column("fault", no_wrap=True)
        for heading in (
            "planned",
            "injected",
            "lost",
            "begun again",
            "sent again",
            "trained again",
            "refused",
        ):
            table.add_column(heading, justify="right")
        table.add_column("recovery", justify="right")
        for row in self.rows:
            if row.name == "all":
                table.add_section()
            counts = (
                row.planned,
                row.injected,
                0,
                row.begun_again,
                row.sent_again,
                row.trained_again,
                row.refused,
            )
            recovery = "" if row.recovery_s is None else f"{row.recovery_s:.1f}"
            table.add_row(row.name, *map(str, counts), recovery)
        return table

    def json(self) -> str:
        """Everything, with each injury."""
        fields: dict[str, Any] = {
            "command": self.options.replay,
            "seed": self.options.seed,
            "rounds": self.options.rounds,
            "learners": self.options.learners,
            "exchange": self.options.exchange,
            "settings": self.options.settings,
            "faults_planned": len(self.plan),
            "faults_injected": len(self.injuries),
            "undisturbed_s": round(self.undisturbed_s, 1),
            "disturbed_s": round(self.disturbed_s, 1),
            "leader_starts": self.leader_starts,
            "bits_identical": self.identical,
            "model_sha256": self.sha256[1],
            "undisturbed_model_sha256": self.sha256[0],
            "violation": self.violation,
            "table": [vars(row) for row in self.rows],
            "injuries": [
                {
                    "fault": injury.fault.name,
                    "target": injury.fault.target,
                    "round": injury.round,
                    "at_s": round(injury.at_s, 2),
                    "begun_again": injury.begun_again,
                    "sent_again": injury.sent_again,
                    "trained_again": injury.trained_again,
                    "refused": injury.refused,
                    "recovered_s": injury.recovered_s and round(injury.recovered_s, 2),
                }
                for injury in self.injuries
            ],
        }
        return json.dumps(fields, indent=2) + "\n"
