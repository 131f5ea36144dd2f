"""Distributed privacy: learners clip their updates and add the noise in shares, under masks.

The leader never sees a sum without noise. Each share is so large that the smallest sum that a round may have, less
the noise of those that collude, is hidden as planned; larger sums are charged for the more noise that they have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from leader.aggregation.base import Aggregator
from leader.config import RunConfig
from leader.config.rules.dp import releases_a_part, shares_counted
from leader.config.rules.secagg import asked, closes_on, sum_of_least
from leader.dp.budget import Budget
from leader.dp.clipping import bit_sigma
from leader.dp.ledger import Release
from leader.dp.masked_release import MaskedRelease
from leader.dp.noise import Mechanism
from leader.state import PrivacyState, RunState
from model.layout import Layout
from protos import leader_pb2
from utils import faults
from utils.dp.shares import multiplier_of, room_of
from utils.errors import ConfigError, PrivacyError
from utils.secagg.ring import COARSE


class DistributedPrivacy(Budget):
    """Whoever has the models, and the leader too, learns little of one learner."""

    against = "models and results, and against a leader that follows the protocol and reads all"

    def __init__(self, config: RunConfig, layout: Layout, path: Path, state: RunState) -> None:
        """Raises ConfigError where masks of 16 bits have no room for updates of so many values."""
        super().__init__(config, layout, path, state)
        bits, size, parties = config.secagg.bits, layout.shared_parameter_count, asked(config)
        if bits == COARSE:
            masks = leader_pb2.MaskPlan(bits=bits, parties=parties)
            reach = noise_plan(config, masks, max(sum_of_least(config), closes_on(config)), size).reach
            if reach < math.sqrt(size):
                raise ConfigError(
                    f"secagg.bits is {bits}, in which updates of {size:,} values with noise have {reach} levels, of "
                    f"which rounding would leave little ({math.ceil(math.sqrt(size))} are needed): set secagg.bits=32"
                )

    @property
    def besides(self) -> str:  # type: ignore[override]
        """See Budget."""
        config = self._config
        colluding = math.ceil(self._dp.colluding * asked(config) - 1e-9)
        return (
            f"it sees sums of at least {sum_of_least(config)} updates with noise of their learners, of which that of "
            f"{colluding} is not counted"
        )

    def begin(self, state: RunState) -> RunState:
        """See Privacy: the leader has no key, as it makes no noise."""
        clip = state.privacy.clip if state.privacy else self._dp.clip
        return replace(state, privacy=self._state(b"", clip))

    def aggregate(self, layout: Layout, state: RunState, usual: Callable[[], Aggregator]) -> Aggregator:
        """See Privacy: what comes masked is summed elsewhere."""
        return usual()

    def masked(
        self, layout: Layout, state: RunState, masks: leader_pb2.MaskPlan, fewest: int
    ) -> SharedRelease:
        """See Privacy."""
        assert state.privacy is not None
        noise = noise_plan(self._config, masks, fewest, layout.shared_parameter_count, state.privacy.clip)
        return SharedRelease(self, self._config, state, noise)

    def charge(self, release: Release) -> None:
        """See Ledger.charge."""
        self._ledger.charge(release)

    def after(self, state: RunState, within: float) -> PrivacyState:
        """What follows `state`, by the noisy share of updates within the clip."""
        assert state.privacy is not None
        return self._state(b"", self._next_clip(state.privacy.clip, within))

    @property
    def _full_multiplier(self) -> float:
        config = self._config
        fewest, parties = max(sum_of_least(config), closes_on(config)), asked(config)
        return self._multiplier * math.sqrt(
            config.updates_summed / shares_counted(fewest, parties, self._dp.colluding)
        )


def noise_plan(
    config: RunConfig, masks: leader_pb2.MaskPlan, fewest: int, size: int, clip: float = 1.0
) -> leader_pb2.NoisePlan:
    """How updates of `size` values are clipped, and how much noise each brings, so that `fewest` hide them."""
    dp = config.dp
    multiplier = dp.noise(releases_a_part(config))
    shares = shares_counted(fewest, masks.parties, dp.colluding)
    bit = bit_sigma(multiplier, config.updates_awaited) if dp.clip_quantile else 0.0
    room = room_of(masks.bits, masks.parties)
    mechanism = Mechanism.shared(multiplier, size, bit, max(1, shares), room)
    return leader_pb2.NoisePlan(
        clip=clip,
        reach=mechanism.value_reach,
        spread=mechanism.noise.multipliers,
        bit_levels=mechanism.bit,
    )


def charged(config: RunConfig, noise: leader_pb2.NoisePlan, in_sum: int, parties: int) -> float:
    """The noise multiplier that a sum of so many updates is charged for; 0 where the noise of none counts."""
    return multiplier_of(noise, max(0, shares_counted(in_sum, parties, config.dp.colluding)))


class SharedRelease(MaskedRelease):
    """The release of a sum whose learners have added the noise."""

    noise: leader_pb2.NoisePlan

    def __init__(
        self, privacy: DistributedPrivacy, config: RunConfig, state: RunState, noise: leader_pb2.NoisePlan
    ) -> None:
        self.noise = noise
        self._privacy = privacy
        self._config = config
        self._state = state

    def charge(
        self, masks: leader_pb2.MaskPlan, noise: leader_pb2.NoisePlan | None, parts: Collection[str], of: str
    ) -> None:
        """See MaskedRelease: by the plan that the sum was made under, maybe before a restart."""
        assert noise is not None
        paid, round_ = charged(self._config, noise, len(parts), masks.parties), self._state.round + 1
        if not paid:
            raise PrivacyError(
                f"round {round_}: of {len(parts)} updates the noise of none counts (dp.colluding)"
            )
        self._privacy.charge(
            Release(round_, of, "distributed", paid, noise.clip, sorted(parts), masks.attempt)
        )
        faults.reach("leader.charged", round_)

    def after(self, within: float) -> PrivacyState:
        """See MaskedRelease."""
        return self._privacy.after(self._state, within)
