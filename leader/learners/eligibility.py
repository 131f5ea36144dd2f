"""Who may take part: what data a learner must bring, and what cohort.require asks of its machine."""

from __future__ import annotations

import math

from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.config.requirement import Requirement
from leader.learners.membership import Member
from protos import leader_pb2
from utils.errors import IncompatibleError, LimitError
from utils.secagg.roster import VERSION
from utils.version import EXAMPLE_PRIVACY, RELEASE


class Eligibility:
    """Refuses learners whose data does not fit the run; those that don't meet cohort.require only look on."""

    def __init__(self, config: RunConfig, *, classes: int, held: int | None, frozen: str = "") -> None:
        self._config = config
        self._classes = classes  # 0 = a task of the user's own, which alone knows its data
        self._frozen = frozen  # fingerprint of the parameters that are the same everywhere; "" = none
        self._held = held  # examples that the leader deals out; None where it has no data
        self._requirement = Requirement.parse(config.cohort.require)

    def check(self, info: leader_pb2.LearnerInfo, others: int) -> None:
        """Refuse `info` if its data does not fit, beside `others` examples that the other learners brought.

        Raises IncompatibleError; LimitError if no exact sum or no work order could hold so many more examples.
        """
        if self._config.secagg.mode != "off" and info.secagg != VERSION:
            raise IncompatibleError(
                f"learner {info.name or 'without a name'} can't mask updates (secagg.mode): it needs a session "
                f"and this release: install flockstep {RELEASE} there, and leave --network-addr out"
            )
        if self._config.dp.mode == "examples" and info.example_privacy != EXAMPLE_PRIVACY:
            raise IncompatibleError(
                f"learner {info.name or 'without a name'} can't hide its examples (dp.mode=examples): install "
                f"flockstep {RELEASE} there"
            )
        if info.frozen != self._frozen:
            raise IncompatibleError(_other_base(info, self._frozen))
        if not info.HasField("own_data"):
            if self._held is None:
                raise IncompatibleError(
                    "this run's leader hands out no data (data.holder is learner); start the learner with --data DIR"
                )
            return
        own, train = info.own_data, self._config.train
        if self._classes and own.classes != self._classes:
            raise IncompatibleError(
                f"your data has {own.classes} classes, this run's model {self._classes}; "
                "use the same classes everywhere (leader: model.classes)"
            )
        if own.examples > (most := self._config.data.max_examples):
            raise LimitError(
                f"you bring {own.examples} examples, at most {most} of one learner are taken (data.max_examples)"
            )
        together = (self._held or 0) + others + own.examples
        # A buffer may be full of its updates alone.
        buffer = self._config.buffer.size + self._config.group_size - 1
        Scale.of(self._config.aggregate.max_abs, max(together, buffer * own.examples))
        if train.local_epochs * math.ceil(own.examples / train.batch_size) >= 1 << 32:
            raise LimitError(f"{own.examples} examples are more batches than one work order can ask for")

    def met_by(self, member: Member) -> bool:
        """Whether the member meets cohort.require."""
        return self._requirement.met_by(member.tags, member.device_kind, member.memory_bytes)


def _other_base(info: leader_pb2.LearnerInfo, frozen: str) -> str:
    """Why a learner's frozen parameters are not those of a run in which `frozen` is their fingerprint."""
    who = f"learner {info.name or 'without a name'}"
    if not frozen:
        return (
            f"{who} has a model with frozen parameters, this run's has none: start it with the run's task, or the "
            "leader with a model.weights that python -m scripts.weights wrote for this one"
        )
    if not info.frozen:
        return (
            f"{who} has no frozen parameters, this run's model does: start it with the run's --task, by flockstep "
            f"{RELEASE}"
        )
    return (
        f"{who} has other frozen parameters than this run (fingerprint {info.frozen[:12]}, here {frozen[:12]}): they "
        "don't travel, so have build_model make the same ones everywhere: from copies of one file, or from a seed "
        "of the task's own in place of the `seed` that it is given"
    )
