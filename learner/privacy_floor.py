"""What a run must promise about privacy for this learner to take part, whatever its leader says (`--require-dp`)."""

from __future__ import annotations

from protos import leader_pb2
from utils.dp.gaussian import epsilon_of
from utils.dp.shares import check_noise, multiplier_of
from utils.errors import PayloadError

_MODES = ("central", "distributed", "examples")
LARGEST_DELTA = 1e-4  # beyond it epsilon says little


class PrivacyFloor:
    """Checks runs and their work against the largest epsilon that this learner agrees to; 0 = any, and none at all."""

    def __init__(self, epsilon: float = 0.0) -> None:
        self._epsilon = epsilon
        self._promised = leader_pb2.DpPromise()

    def registered(self, run: leader_pb2.RunDescription) -> None:
        """Raise PayloadError for a run that promises less than this learner asks for."""
        self._promised = promised = run.dp
        if not self._epsilon:
            return
        if promised.mode not in _MODES:
            said = f"promises {promised.mode[:20]!r}, which is no" if promised.mode else "promises no"
            raise PayloadError(
                f"the leader {said} differential privacy, and this learner takes part in no run without "
                f"(--require-dp {self._epsilon:g})"
            )
        self._check_budget(promised.epsilon, promised.delta)

    def check(self, order: leader_pb2.WorkOrder) -> None:
        """Raise PayloadError for work that does not keep what its run has promised.

        What the leader does to a sum (`central`) no learner sees.
        """
        if not self._epsilon:
            return
        begins = f"dp.mode of this run is {self._promised.mode}, but the leader asks for "
        if self._promised.mode == "examples":
            if not order.HasField("examples"):
                raise PayloadError(f"{begins}work without noise for each example (--require-dp)")
            self._check_budget(order.examples.epsilon, order.examples.delta)
        if self._promised.mode == "distributed":
            if not order.HasField("noise"):
                raise PayloadError(f"{begins}an update without a share of noise (--require-dp)")
            check_noise(order.noise, order.masking)
            # As if all were in the sum, and nobody colluded: the leader's own account has no less.
            most_noise = multiplier_of(order.noise, order.masking.parties)
            spent = epsilon_of(1 / most_noise, self._promised.delta)
            if spent > self._promised.epsilon:
                raise PayloadError(
                    f"{begins}noise of {most_noise:.3g} times an update in the sum, which alone spends epsilon "
                    f"{spent:.3g} of {self._promised.epsilon:g} (--require-dp)"
                )

    def _check_budget(self, epsilon: float, delta: float) -> None:
        if not (0 < epsilon <= self._epsilon and 0 < delta <= LARGEST_DELTA):
            raise PayloadError(
                f"epsilon {epsilon:.4g} at delta {delta:g} is promised, this learner asks for {self._epsilon:g} at "
                f"{LARGEST_DELTA:g} or less (--require-dp)"
            )
