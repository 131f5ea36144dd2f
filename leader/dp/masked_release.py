"""What is done about a masked sum before it is revealed, and what follows it: nothing, where it brings no noise."""

from __future__ import annotations

from collections.abc import Collection

from leader.state import PrivacyState
from protos import leader_pb2


class MaskedRelease:
    """The release of one round's masked sum; this one promises nothing, and costs nothing."""

    noise: leader_pb2.NoisePlan | None = None  # what learners do to their updates

    def charge(
        self, masks: leader_pb2.MaskPlan, noise: leader_pb2.NoisePlan | None, parts: Collection[str], of: str
    ) -> None:
        """Have the sum of these parts under these plans, for which `of` stands, on disk as paid.

        Raises PrivacyError where it can't be paid, CheckpointError where that can't be written.
        """

    def after(self, within: float) -> PrivacyState | None:
        """The state after the sum is revealed, by the noisy share of updates within the clip."""
        return None
