"""The budget of a private run's learners: what they have spent of it, who can still pay, and how that is told."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Set
from pathlib import Path
from typing import Any, TypeVar

from leader.config import RunConfig
from leader.config.rules.dp import releases_a_part
from leader.config.rules.secagg import sum_of_least
from leader.dp.accountant import Accountant
from leader.dp.clipping import next_clip
from leader.dp.ledger import ADJACENCY, Head, Ledger
from leader.dp.masked_release import MaskedRelease
from leader.state import PrivacyState, RunState
from model.layout import Layout
from protos import leader_pb2
from utils.errors import ConfigError, PrivacyError

P = TypeVar("P")


class Budget:
    """What private runs have in common, whoever clips and adds noise.

    Raises ConfigError where the model can't be kept private, and PrivacyError where the ledger is not whole.
    """

    against = "models and results"  # whom the promise is against: whoever has these
    besides = ""  # more of that, for people

    def __init__(self, config: RunConfig, layout: Layout, path: Path, state: RunState) -> None:
        check_buffers(config.dp.mode, layout)
        self._config = config
        self._dp = dp = config.dp
        self._multiplier = dp.noise(releases_a_part(config))
        self._accountant = Accountant(dp.epsilon, dp.delta)
        known = Head(state.privacy.entries, state.privacy.head) if state.privacy else None
        self._ledger = Ledger(path, self._accountant, state.run_id, dp.sampling, known)
        #: Parts that have paid for a round that was not committed before a restart: the same release is free.
        self._paid: dict[int, list[str]] = {}
        for round_, parts in self._ledger.ahead:
            self._paid.setdefault(max(round_, state.round + 1), []).extend(parts)

    def _state(self, key: bytes, clip: float) -> PrivacyState:
        head, spent = self._ledger.head, self._accountant.spent_max
        return PrivacyState(key, clip, head.entries, head.digest, spent, self._dp.epsilon)

    def _next_clip(self, clip: float, within: float) -> float:
        return (
            clip
            if math.isnan(within)
            else next_clip(clip, within, self._dp.clip_quantile, self._dp.clip_rate)
        )

    def masked(
        self, layout: Layout, state: RunState, masks: leader_pb2.MaskPlan, fewest: int
    ) -> MaskedRelease:
        """See Privacy."""
        return MaskedRelease()

    def payable(self, parts: Mapping[str, P], round_: int = 0) -> Mapping[str, P]:
        """See Privacy."""
        paid = self._paid.get(round_, ())
        return {part: value for part, value in parts.items() if part in paid or self._can_pay(part)}

    @property
    def broke(self) -> Set[str]:
        """See Privacy."""
        return frozenset(part for part in self._accountant.parts if not self._can_pay(part))

    def _can_pay(self, part: str) -> bool:
        return self._accountant.can_pay(part, self._multiplier)

    def void(self, round_: int) -> None:
        """See Privacy."""
        self._paid.pop(round_, None)

    def check_paid(self, round_: int, parts: Iterable[str]) -> None:
        """See Privacy."""
        if broke := [part for part in parts if not self._can_pay(part)]:
            raise PrivacyError(self._ledger.refusal(round_, broke[0], self._multiplier))

    def spent(self, round_: int, present: Collection[str]) -> str:
        """See Privacy: fewer parts than a round needs are left, or none of those here."""
        paid = self._paid.get(round_, [])
        if self._config.group_size > 1 and len(paid) < self._config.buffer.size:
            paid = []  # others would have to pay for the rest of the buffer
        broke = self.broke - set(paid)
        if not broke:
            return ""
        cohort, known = self._config.cohort, self._accountant.parts.union(present)
        everybody = max(self._config.parts_held, len(known))  # when a run is resumed, nobody is here yet
        needed = math.ceil(cohort.quorum * min(cohort.size or everybody, everybody))
        if self._config.group_size > 1:
            needed = sum_of_least(self._config)
        if everybody - len(broke) >= max(1, needed) and not (present and set(present) <= broke):
            return ""
        most = max(sorted(broke), key=self._accountant.spent)
        return self._ledger.refusal(round_, most, self._multiplier)

    def promise(self, layout: Layout) -> list[str]:
        """See Privacy."""
        dp, unit = self._dp, self._unit
        updates, size = self._config.updates_summed, layout.shared_parameter_count
        multiplier = self._full_multiplier
        ratio = multiplier * math.sqrt(size) / updates
        verdict = "" if ratio <= 1 else "; the noise drowns them: more learners a round, or a smaller model"
        parts = self._config.parts_held
        vague = f"dp.delta is {dp.delta:g}, by which all may be told of one of {parts} {unit}s: lower it"
        return [
            *([vague] if dp.delta * parts >= 1 else []),
            f"privacy of each {unit}: epsilon {dp.epsilon:g} at delta {dp.delta:g} over the run, against whoever has "
            f"its {self.against}; {self.besides} (dp.mode={dp.mode})",
            f"noise over clipped updates: {ratio:.2g} = z sqrt(d) / n, with z {multiplier:g}, d {size:,}, "
            f"n {updates:,}{verdict}",
        ]

    @property
    def _full_multiplier(self) -> float:
        """Noise multiplier of a sum of all updates that a round waits for."""
        return self._multiplier

    @property
    def _unit(self) -> str:
        return "learner" if self._config.data.holder == "learner" else "shard"

    def summary(self) -> Mapping[str, Any]:
        """See Privacy: `spent_max` is what the part has spent that was in most rounds."""
        dp = self._dp
        return {
            "mode": dp.mode,
            "unit": self._unit,
            "epsilon": dp.epsilon,
            "delta": dp.delta,
            "spent_max": self._accountant.spent_max,
            "adjacency": ADJACENCY,
            "against": self.against,
            "sampling": dp.sampling,
            "rounds_left": self._accountant.releases_left(self._multiplier),
        }


def check_buffers(mode: str, layout: Layout) -> None:
    """Raise ConfigError for a model with tensors that would travel without noise."""
    buffers = [entry.name for entry in layout.buffers if entry.name not in layout.local]
    if buffers:
        raise ConfigError(
            f"dp.mode is {mode}, but the model has {buffers[0]!r}, which is not trained and not clipped: keep such "
            "tensors at the learners by model.local, or build the model without them"
        )
