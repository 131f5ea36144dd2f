"""One exchange's updates, kept on disk until a robust rule combines them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.aggregate import check_update, digest_of, mean_loss
from leader.aggregation.base import Contribution, Result, Term
from leader.aggregation.exact_sum import check_range
from leader.aggregation.norms import check_norm, clip_factor, squared_norm
from leader.aggregation.robust.bulyan import bulyan
from leader.aggregation.robust.coordinatewise import median, trimmed_mean
from leader.aggregation.robust.geometric_median import geometric_median
from leader.aggregation.robust.krum import krum, multi_krum
from leader.aggregation.robust.rows import Rows, Rule
from leader.aggregation.spool import Spool
from leader.config import AggregateConfig, RunConfig
from leader.config.rules.aggregate import least_updates
from model.layout import Layout
from utils.errors import PayloadError, TooFewLearnersError
from utils.vector import Vector
from utils.wire.payload import Payload

RULES: dict[str, Rule] = {
    "median": median,
    "trimmed_mean": trimmed_mean,
    "krum": krum,
    "multi_krum": multi_krum,
    "bulyan": bulyan,
    "geometric_median": geometric_median,
}


BUFFERS_RULE = "median"
_ELSEWHERE = -1


def combine(rule: str, byzantine: int, rows: Rows) -> Vector:
    """What the rule makes of the rows; zero where they are fewer than it needs."""
    if rows.n < least_updates(rule, byzantine):
        return np.zeros(rows.size, np.float32)
    return RULES[rule](rows, byzantine)


def open_robust(config: RunConfig, layout: Layout, spool_dir: Path | None) -> RobustAggregate:
    """An empty aggregate under `aggregate.rule`, spooled in `spool_dir` (None: where temporary files go).

    Raises CheckpointError where no file can be made there.
    """
    spool = Spool(layout, spool_dir, config.aggregate.spool_bytes)
    return RobustAggregate(config.aggregate, layout, spool)


@dataclass(frozen=True, order=True)
class _Member:
    """One spooled update; members are ordered by part, whenever they came."""

    part: str
    weight: int
    crc32: int
    row: int  # in the spool, or _ELSEWHERE
    has_buffers: bool
    loss: float


class RobustAggregate:
    """Every update counts once, whatever its examples and its age: a malicious learner may claim any number.

    The rule combines the parameters. Buffers are statistics, not steps, and a rule that picks one
    update would leave them to one learner: under every rule they become their coordinate-wise
    median over the updates that have them, and stay as they are when no more than twice
    `byzantine` do.

    Where updates are elsewhere, those that are here go there too, and the rule is applied there: it must see them all.
    """

    def __init__(self, config: AggregateConfig, layout: Layout, spool: Spool) -> None:
        self._config = config
        self._layout = layout
        self._spool = spool
        self._members: list[_Member] = []
        self._combined: Vector | None = None  # what the rule made of them elsewhere

    def add(self, contribution: Contribution) -> None:
        """Spool one contribution, whole or not at all.

        Raises PayloadError or ValueRangeError for a bad one, and CheckpointError when the disk is full.
        """
        payload = contribution.payload
        check_update(self._layout, payload.manifest)
        check_range(payload.data.view(np.float32), self._config.max_abs)
        factor = self._factor(payload)
        row = self._spool.append(payload, factor)
        # Of a stale update they are changes to statistics that others have changed since.
        has_buffers = self._has_buffers(payload) and not contribution.staleness
        self._members.append(
            _Member(
                contribution.part, contribution.weight, payload.crc32, row, has_buffers, contribution.loss
            )
        )

    def _has_buffers(self, payload: Payload) -> bool:
        buffers = {entry.name for entry in self._layout.buffers}
        return any(tensor.name in buffers for tensor in payload.manifest.tensors)

    def _factor(self, payload: Payload) -> float:
        """What the parameters are multiplied by to keep `clip_norm`; raises beyond `reject_norm`."""
        clip, reject = self._config.clip_norm, self._config.reject_norm
        if not (clip or reject):
            return 1.0
        squared = squared_norm(self._layout, payload)
        if reject:
            check_norm(squared, reject)
        return clip_factor(squared, clip) if clip else 1.0

    def finish(self) -> Result:
        """What the rule makes of everything added.

        Raises TooFewLearnersError when these are fewer than the rule needs, and CheckpointError
        when they can't be read back.
        """
        byzantine, rule = self._config.byzantine, self._config.rule
        members = sorted(self._members)
        if len(members) < (needed := least_updates(rule, byzantine)):
            raise TooFewLearnersError(
                f"an exchange closed on {len(members)} updates; aggregate.rule={rule} with "
                f"aggregate.byzantine={byzantine} needs {needed}: resume with more learners"
            )
        combined = self._combined if self._combined is not None else self._combine(members)
        told = [(member.weight, member.loss) for member in members]
        digest = digest_of([(member.part, member.weight, member.crc32) for member in members])
        examples = sum(member.weight for member in members)
        return Result(combined, examples, mean_loss(told), digest)

    def _combine(self, members: Sequence[_Member]) -> Vector:
        """What the rule makes of the spooled rows."""
        byzantine, rule = self._config.byzantine, self._config.rule
        split, total = self._layout.parameter_count, self._layout.total
        everyone = self._spool.rows([member.row for member in members], 0, split)
        with_buffers = [member.row for member in members if member.has_buffers]
        buffers = self._spool.rows(with_buffers, split, total)
        parts = combine(rule, byzantine, everyone), combine(BUFFERS_RULE, byzantine, buffers)
        return self._layout.gathered(np.concatenate(parts))

    # --- updates elsewhere -------------------------------------------------------------------

    @property
    def sum_bytes(self) -> int:
        """See Countable."""
        return 8 * self._layout.pieces()[-1].stop

    @property
    def parts(self) -> frozenset[str]:
        """See Countable."""
        return frozenset(member.part for member in self._members)

    def count(self, contribution: Contribution) -> None:
        """See Countable."""
        assert contribution.elsewhere is not None
        part, weight, crc32 = contribution.part, contribution.weight, contribution.payload.crc32
        buffers = contribution.elsewhere.buffers
        self._members.append(_Member(part, weight, crc32, _ELSEWHERE, buffers, contribution.loss))

    def hand_over(self) -> Iterator[tuple[str, list[Term]]]:
        """See Countable."""
        for number, member in enumerate(self._members):
            if member.row != _ELSEWHERE:
                yield member.part, self._terms(member)
                self._members[number] = replace(member, row=_ELSEWHERE)

    def _terms(self, member: _Member) -> list[Term]:
        values = np.empty(self._layout.total, np.float32)
        for start, tile in self._spool.tiles([member.row], 0, values.size):
            values[start : start + tile.size] = tile[0]
        shared, split = self._layout.gathered(values), self._layout.shared_parameter_count
        terms = [Term(0, shared[:split], 1, 1.0), Term(split, shared[split:], 1, 1.0)]
        return terms if member.has_buffers else terms[:1]

    def merge(self, parts: frozenset[str], weights: tuple[int, ...], data: NDArray[np.uint8]) -> None:
        """See Countable: what the rule made of all of them."""
        counts = len(self._members), sum(member.has_buffers for member in self._members)
        if parts != self.parts or weights != counts[: len(weights)]:
            raise PayloadError(f"a rule over {weights} updates; {counts} are counted")
        self._combined = data.view(np.float32)

    def forget(self, parts: frozenset[str]) -> None:
        """See Countable."""
        self._members = [member for member in self._members if member.part not in parts]

    def close(self) -> None:
        """Give the disk space back; calling it again changes nothing."""
        self._spool.close()
