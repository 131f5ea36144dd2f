"""What a run promises about its learners, and how its sums are released under that promise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leader.aggregation.base import Aggregator
from leader.config import RunConfig
from leader.config.rules.secagg import sum_of_least
from leader.dp.budget import check_buffers
from leader.dp.central import CentralPrivacy
from leader.dp.distributed import DistributedPrivacy
from leader.dp.ledger import ADJACENCY
from leader.dp.masked_release import MaskedRelease
from leader.state import RunState
from model.layout import Layout
from protos import leader_pb2

P = TypeVar("P")


class Privacy(Protocol):
    """What becomes of updates between the sum and the model, and who can still pay for it."""

    def begin(self, state: RunState) -> RunState:
        """The state that this process goes on from."""
        ...

    def aggregate(self, layout: Layout, state: RunState, usual: Callable[[], Aggregator]) -> Aggregator:
        """An empty aggregate for the round after `state`; `usual` opens the one of a run that promises nothing."""
        ...

    def masked(
        self, layout: Layout, state: RunState, masks: leader_pb2.MaskPlan, fewest: int
    ) -> MaskedRelease:
        """How a masked sum of at least `fewest` updates is released in the round after `state`."""
        ...

    def payable(self, parts: Mapping[str, P], round_: int = 0) -> Mapping[str, P]:
        """Those of the parts that can pay one more release, or paid for this round before a restart."""
        ...

    @property
    def broke(self) -> Set[str]:
        """Parts that can pay no further release."""
        ...

    def void(self, round_: int) -> None:
        """What was paid for this round before a restart will not be released."""
        ...

    def check_paid(self, round_: int, parts: Iterable[str]) -> None:
        """Raise PrivacyError unless all of the parts can pay the round once more."""
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
    match config.dp.mode:
        case "central":
            return CentralPrivacy(config, layout, path, state)
        case "distributed":
            return DistributedPrivacy(config, layout, path, state)
        case "examples":
            check_buffers("examples", layout)
            return OfExamples(config)
        case _:
            return NoPrivacy(config)


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

    def masked(
        self, layout: Layout, state: RunState, masks: leader_pb2.MaskPlan, fewest: int
    ) -> MaskedRelease:
        """See Privacy."""
        return MaskedRelease()

    def payable(self, parts: Mapping[str, P], round_: int = 0) -> Mapping[str, P]:
        """See Privacy."""
        return parts

    @property
    def broke(self) -> Set[str]:
        """See Privacy."""
        return frozenset()

    def void(self, round_: int) -> None:
        """See Privacy."""

    def check_paid(self, round_: int, parts: Iterable[str]) -> None:
        """See Privacy."""

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


class OfExamples(NoPrivacy):
    """Each learner hides its examples in its own training, and keeps its own ledger; the leader knows of neither."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._dp = config.dp

    def promise(self, layout: Layout) -> list[str]:
        """See Privacy."""
        dp = self._dp
        return [
            *super().promise(layout),
            f"privacy of each example: epsilon {dp.epsilon:g} at delta {dp.delta:g} over the run, against the leader "
            "and whoever has its models and results, by each learner's own noise and ledger (dp.mode=examples)",
        ]

    def summary(self) -> Mapping[str, Any]:
        """See Privacy; what is spent is known to each learner alone."""
        return {
            **super().summary(),
            "mode": self._dp.mode,
            "unit": "example",
            "epsilon": self._dp.epsilon,
            "delta": self._dp.delta,
            "spent_max": None,
            "adjacency": ADJACENCY,
            "against": "models and results, and against the leader",
            "sampling": "poisson batches",
        }
