"""What a run promises about its learners, and how its sums are released under that promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from leader.aggregation.base import Aggregator
from leader.config import RunConfig
from leader.config.dp_rules import releases_a_part
from leader.config.secagg_rules import sum_of_least
from leader.dp.accountant import Accountant
from leader.dp.aggregate import PrivateAggregate, Sums
from leader.dp.clipping import bit_sigma, next_clip
from leader.dp.ledger import ADJACENCY, Head, Ledger, Release
from leader.dp.noise import Mechanism, derive_key, new_key, next_key
from leader.state import PrivacyState, RunState
from model.flat import Layout
from utils import faults
from utils.errors import ConfigError

P = TypeVar("P")
_BLOCK = 1 << 20  # elements of noise at once


class Privacy(Protocol):
    """What becomes of updates between the sum and the model, and who can still pay for it."""

    def begin(self, state: RunState) -> RunState:
        """The state that this process goes on from."""
        ...

    def aggregate(self, layout: Layout, state: RunState, usual: Callable[[], Aggregator]) -> Aggregator:
        """An empty aggregate for the round after `state`; `usual` opens the one of a run that promises nothing."""
        ...

    def payable(self, parts: Mapping[str, P]) -> Mapping[str, P]:
        """Those of the parts that can pay one more round."""
        ...

    def spent(self, round_: int, present: Collection[str]) -> str:
        """Why this round can't be paid, "" where it can; `present` are the parts whose learners are here."""
        ...

    def promise(self, layout: Layout) -> list[str]:
        """What is promised and against whom, a line each."""
        ...

    def summary(self) -> Mapping[str, Any]:
        """What summary.json says about it."""
        ...


def open_privacy(config: RunConfig, layout: Layout, path: Path, state: RunState) -> Privacy:
    """What `dp.mode` asks for, with its ledger at `path`.

    Raises ConfigError where the model can't be kept private, and PrivacyError where the ledger is not whole.
    """
    return CentralPrivacy(config, layout, path, state) if config.dp.on else NoPrivacy(config)


class NoPrivacy:
    """No noise, and nothing has to be paid; masks are all that may be promised."""

    def __init__(self, config: RunConfig) -> None:
        self._mode = config.secagg.mode
        self._least = sum_of_least(config)

    def begin(self, state: RunState) -> RunState:
        """See Privacy."""
        return state

    def aggregate(self, layout: Layout, state: RunState, usual: Callable[[], Aggregator]) -> Aggregator:
        """See Privacy."""
        return usual()

    def payable(self, parts: Mapping[str, P]) -> Mapping[str, P]:
        """See Privacy."""
        return parts

    def spent(self, round_: int, present: Collection[str]) -> str:
        """See Privacy."""
        return ""

    def promise(self, layout: Layout) -> list[str]:
        """See Privacy."""
        if self._mode == "off":
            return []
        sums = f"the leader sees sums of at least {self._least}"
        if self._mode == "masked":
            return [f"updates come masked: {sums} (secagg.mode=masked)"]
        return [
            f"updates come masked, by keys that learners sign: {sums}, whatever it tells to whom, while fewer than a "
            "third of the learners work for it (secagg.mode=signed)",
            "who is a learner its own CA says; who must not trust that either lists whom it masks with (--peers FILE)",
        ]

    def summary(self) -> Mapping[str, Any]:
        """See Privacy."""
        return {} if self._mode == "off" else {"mode": self._mode, "least": self._least}


class CentralPrivacy:
    """The leader clips what it decoded and adds noise to the sum: whoever has only the models learns little of one."""

    def __init__(self, config: RunConfig, layout: Layout, path: Path, state: RunState) -> None:
        _check_buffers(layout)
        self._config = config
        self._dp = dp = config.dp
        self._multiplier = dp.noise(releases_a_part(config))
        self._accountant = Accountant(dp.epsilon, dp.delta)
        known = Head(state.privacy.entries, state.privacy.head) if state.privacy else None
        self._ledger = Ledger(path, self._accountant, state.run_id, dp.sampling, known)

    def begin(self, state: RunState) -> RunState:
        """See Privacy: a run that begins, or that goes on after its last round, has a new key."""
        before = state.privacy or PrivacyState(b"", self._dp.clip)
        key = before.noise_key or (new_key() if state.round < self._config.rounds else b"")
        return replace(state, privacy=self._after(key, before.clip))

    def _after(self, key: bytes, clip: float) -> PrivacyState:
        head, spent = self._ledger.head, self._accountant.spent_max
        return PrivacyState(key, clip, head.entries, head.digest, spent, self._dp.epsilon)

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
        return self._after(
            b"" if is_last else next_key(before.noise_key), self._next_clip(before, mechanism, sums, parts)
        )

    def _next_clip(
        self, before: PrivacyState, mechanism: Mechanism, sums: Sums, parts: Collection[str]
    ) -> float:
        if not mechanism.bit:
            return before.clip
        within = float(np.float64(sums[-1]) / mechanism.bit / len(parts)) + 0.5
        return next_clip(before.clip, within, self._dp.clip_quantile, self._dp.clip_rate)

    def payable(self, parts: Mapping[str, P]) -> Mapping[str, P]:
        """See Privacy."""
        return {part: value for part, value in parts.items() if self._can_pay(part)}

    def _can_pay(self, part: str) -> bool:
        return self._accountant.can_pay(part, self._multiplier)

    def spent(self, round_: int, present: Collection[str]) -> str:
        """See Privacy: fewer parts than a round needs are left, or none of those here."""
        broke = [part for part in self._accountant.parts if not self._can_pay(part)]
        if not broke:
            return ""
        cohort, known = self._config.cohort, self._accountant.parts.union(present)
        everybody = max(self._config.parts_held, len(known))  # when a run is resumed, nobody is here yet
        needed = math.ceil(cohort.quorum * min(cohort.size or everybody, everybody))
        if everybody - len(broke) >= max(1, needed) and not (present and set(present) <= set(broke)):
            return ""
        most = max(sorted(broke), key=self._accountant.spent)
        return self._ledger.refusal(round_, most, self._multiplier)

    def promise(self, layout: Layout) -> list[str]:
        """See Privacy."""
        dp, unit = self._dp, self._unit
        updates, size = self._config.updates_awaited, layout.shared_parameter_count
        ratio = self._multiplier * math.sqrt(size) / updates
        verdict = "" if ratio <= 1 else "; the noise drowns them: more learners a round, or a smaller model"
        parts = self._config.parts_held
        vague = f"dp.delta is {dp.delta:g}, by which all may be told of one of {parts} {unit}s: lower it"
        return [
            *([vague] if dp.delta * parts >= 1 else []),
            f"privacy of each {unit}: epsilon {dp.epsilon:g} at delta {dp.delta:g} over the run, against whoever has "
            "its models and results; not against the leader, which sees all updates and is trusted (dp.mode=central)",
            f"noise over clipped updates: {ratio:.2g} = z sqrt(d) / n, with z {self._multiplier:g}, d {size:,}, "
            f"n {updates:,}{verdict}",
        ]

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
            "sampling": dp.sampling,
            "rounds_left": self._accountant.releases_left(self._multiplier),
        }


def _check_buffers(layout: Layout) -> None:
    buffers = [entry.name for entry in layout.buffers if entry.name not in layout.local]
    if buffers:
        raise ConfigError(
            f"dp.mode is central, but the model has {buffers[0]!r}, which is not trained and not clipped: keep such "
            "tensors at the learners by model.local, or build the model without them"
        )
