"""Central privacy: the leader, which is trusted, clips what it decoded and adds noise to the sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from leader.aggregation.base import Aggregator
from leader.dp.aggregate import PrivateAggregate, Sums
from leader.dp.budget import Budget
from leader.dp.clipping import bit_sigma
from leader.dp.ledger import Release
from leader.dp.noise import Mechanism, derive_key, new_key, next_key
from leader.state import PrivacyState, RunState
from model.layout import Layout
from utils import faults

_BLOCK = 1 << 20  # elements of noise at once


class CentralPrivacy(Budget):
    """Whoever has only the models learns little of one learner; the leader sees each update."""

    besides = "not against the leader, which sees all updates and is trusted"

    def begin(self, state: RunState) -> RunState:
        """See Privacy: a run that begins, or that goes on after its last round, has a new key."""
        before = state.privacy or PrivacyState(b"", self._dp.clip)
        key = before.noise_key or (new_key() if state.round < self._config.rounds else b"")
        return replace(state, privacy=self._state(key, before.clip))

    def aggregate(self, layout: Layout, state: RunState, usual: Callable[[], Aggregator]) -> Aggregator:
        """See Privacy."""
        assert state.privacy is not None
        clip, multiplier = state.privacy.clip, self._multiplier
        noisy = bit_sigma(multiplier, self._config.updates_awaited) if self._dp.clip_quantile else 0.0
        mechanism = Mechanism.of(multiplier, layout.shared_parameter_count, noisy)
        release = partial(self._release, state.round + 1, state.privacy, mechanism)
        return PrivateAggregate(layout, mechanism, clip, release)

    def _release(
        self,
        round_: int,
        before: PrivacyState,
        mechanism: Mechanism,
        sums: Sums,
        parts: list[str],
        digest: str,
    ) -> PrivacyState:
        """Charge the sums, then add noise to them; what the next release depends on.

        The key makes an entry that nobody can check a guess of the sum against, and noise of another sum other noise.
        """
        what = f"{round_} {digest}".encode()
        of = derive_key(before.noise_key, b"entry " + what).hex()
        self._ledger.charge(Release(round_, of, self._dp.mode, self._multiplier, before.clip, parts))
        faults.reach("leader.charged", round_)
        key = derive_key(before.noise_key, b"noise " + what)
        for first in range(0, sums.size, _BLOCK):
            block = sums[first : first + _BLOCK]
            block += mechanism.noise.draw(key, block.size, first)
        is_last = round_ >= self._config.rounds
        within = math.nan
        if mechanism.bit:
            within = float(np.float64(sums[-1]) / mechanism.bit / len(parts)) + 0.5
        return self._state(
            b"" if is_last else next_key(before.noise_key), self._next_clip(before.clip, within)
        )
