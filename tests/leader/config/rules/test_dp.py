"""Private runs of settings that make no sense together are refused with the reason, or of what can't be paid."""

from __future__ import annotations

import pytest

from leader.config.rules.dp import orders_a_learner, releases_a_part
from tests.leader.config.settings import assert_refused, config_of

PRIVATE = "dp.mode=central model.norm=group aggregate.weighting=uniform"
SHARED = f"{PRIVATE} dp.mode=distributed secagg.mode=masked data.holder=learner learners=4"
EXAMPLES = "dp.mode=examples model.norm=group data.holder=learner"
REFUSED = {
    "private norm": (
        "dp.mode=central aggregate.weighting=uniform",
        "dp.mode is central, but model.norm is batch, whose statistics are not clipped: set model.norm=group, or "
        "model.local='*.norm.*'",
    ),
    "private weights": (f"{PRIVATE} aggregate.weighting=examples", "set aggregate.weighting=uniform"),
    "private gradients": (
        f"{PRIVATE} exchange=gradient",
        "each step would be paid alone: set exchange=delta",
    ),
    "private masks": (
        f"{PRIVATE} secagg.mode=masked data.holder=learner learners=3",
        "secagg.mode is masked, so that the leader, which clips, sees no update: set secagg.mode=off",
    ),
    "private buffer": (f"{PRIVATE} buffer.size=3", "buffer.size is 3", "set buffer.size=0"),
    "private rule": (f"{PRIVATE} aggregate.rule=median learners=3", "set aggregate.rule=mean"),
    "shares without masks": (
        "dp.mode=distributed model.norm=group aggregate.weighting=uniform data.holder=learner learners=3",
        "dp.mode is distributed, but secagg.mode is off, so that each update would come with a share of the noise "
        "alone: set secagg.mode=masked",
    ),
    "group without masks": ("buffer.size=4 buffer.group=4", "set buffer.group=0"),
    "group without a buffer": (f"{SHARED} buffer.group=4", "set buffer.group=0, or buffer.size"),
    "group above the buffer": (
        f"{SHARED} buffer.size=3 buffer.group=4",
        "applied at 3 updates (buffer.size)",
    ),
    "group of more than are at work": (
        f"{SHARED} learners=9 cohort.size=4 buffer.size=5",
        "buffer.size is 5, but cohort.size is 4",
        "set buffer.group=4",
    ),
    "group of 16 bits": (
        "secagg.mode=masked data.holder=learner learners=4 buffer.size=4 secagg.bits=16",
        "set secagg.bits=32",
    ),
    "group with a moving clip": (f"{SHARED} buffer.size=4 dp.clip_quantile=0.5", "set dp.clip_quantile=0"),
    "group unpaid": (
        f"{SHARED} buffer.size=4 rounds=20 dp.noise_multiplier=1",
        "but 20 rounds may need 40 of one",
    ),
    "shares weighted": (f"{SHARED} aggregate.weighting=examples", "set aggregate.weighting=uniform"),
    "shares of batch norm": (f"{SHARED} model.norm=batch", "dp.mode is distributed, but model.norm is batch"),
    "nobody's share": (
        f"{SHARED} dp.colluding=0.9",
        "dp.colluding is 0.9, by which the noise of none of the 4 learners counts that a round may close on",
    ),
    "shares too small": (
        f"{SHARED} learners=9000 dp.noise_multiplier=0.01 dp.epsilon=99999",
        "secagg.bits is 32, in which sums of 9000 updates with noise of 0.01 times their length have no room: set "
        "secagg.bits=64, or raise dp.noise_multiplier",
    ),
    "coarse shares": (
        f"{SHARED} learners=32 secagg.bits=16 dp.noise_multiplier=0.1 dp.epsilon=99999",
        "secagg.bits is 16, in which sums of 32 updates with noise of 0.1 times their length have no room: set "
        "secagg.bits=32, or raise dp.noise_multiplier",
    ),
    "shares unpaid": (
        f"{SHARED} rounds=50 dp.noise_multiplier=1",
        "which pays a learner 2 rounds at dp.noise_multiplier=1, but 50 rounds may need 50 of one",
    ),
    "examples here": (
        f"{EXAMPLES} data.holder=leader",
        "dp.mode is examples, but data.holder is leader, which has the data anyway: set data.holder=learner",
    ),
    "examples by gradients": (f"{EXAMPLES} exchange=gradient", "no steps of their own: set exchange=delta"),
    "examples in batch norm": (
        f"{EXAMPLES} model.norm=batch",
        "dp.mode is examples, but model.norm is batch, which mixes examples, so that none can be clipped: set "
        "model.norm=group",
    ),
    "examples with next to no noise": (f"{EXAMPLES} dp.noise_multiplier=0.01", "set 0, or 0.05 or more"),
    "examples and a personal model": (f"{EXAMPLES} train.personal_lambda=1", "set train.personal_lambda=0"),
    "examples in fragments": (f"{EXAMPLES} streaming.fragments=2", "set streaming.fragments=0"),
    "examples by quantile": (f"{EXAMPLES} dp.clip_quantile=0.5", "set dp.clip_quantile=0"),
    "examples by losses": (f"{EXAMPLES} aggregate.weighting=qfedavg", "set aggregate.weighting=examples"),
    "examples scored": (
        f"{EXAMPLES} evaluation.federated_every=1 evaluation.holdout=0.1",
        "set evaluation.federated_every=0",
    ),
    "examples and oort": (f"{EXAMPLES} cohort.policy=oort cohort.size=1", "set cohort.policy=uniform"),
    "private clip": (f"{PRIVATE} aggregate.clip_norm=3", "clipped to dp.clip: set aggregate.clip_norm=0"),
    "private bound": (f"{PRIVATE} aggregate.reject_norm=3", "set aggregate.reject_norm=0"),
    "private scaffold": (
        f"{PRIVATE} train.control_variates=true train.local_steps=5 train.momentum=0 train.nesterov=false",
        "variates are made of updates without noise: set train.control_variates=false",
    ),
    "private scores": (
        f"{PRIVATE} evaluation.federated_every=2 evaluation.holdout=0.1",
        "what learners score has no noise: set evaluation.federated_every=0",
    ),
    "private oort": (f"{PRIVATE} cohort.policy=oort cohort.size=1", "losses without noise", "policy=uniform"),
    "private sampling": (
        f"{PRIVATE} dp.sampling=poisson",
        "dp.sampling is poisson, for which this release has no accountant: set dp.sampling=none",
    ),
    "unpaid": (
        f"{PRIVATE} rounds=50 dp.noise_multiplier=1",
        "dp.epsilon is 8, which pays a learner 2 rounds at dp.noise_multiplier=1, but 50 rounds may need 50 of one",
        "set dp.noise_multiplier=4.24427 (or 0, which is the least that pays)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(case: str) -> None:
    assert_refused(*REFUSED[case])


@pytest.mark.parametrize(
    ("settings", "releases"),
    [
        ("rounds=50", 50),  # everybody is in each
        ("rounds=50 learners=1000 cohort.size=10 data.holder=learner", 1),
        ("rounds=500 learners=1000 cohort.size=10 data.holder=learner", 6),
        ("rounds=500 data.shards=20 cohort.size=10", 454),
        ("rounds=1 learners=9", 1),
    ],
)
def test_each_part_must_be_able_to_pay_so_many_rounds_that_a_cohort_is_always_left(
    settings: str, releases: int
) -> None:
    assert releases_a_part(config_of(*settings.split())) == releases


def test_a_run_that_pays_its_rounds_by_the_least_noise_is_one_that_could_be_asked_for() -> None:
    least = config_of(*PRIVATE.split(), "rounds=50")
    given = config_of(*PRIVATE.split(), "rounds=50", f"dp.noise_multiplier={least.dp.noise(50)!r}")
    assert given.dp.noise(50) == least.dp.noise(50)


@pytest.mark.parametrize(
    ("settings", "orders"),
    [
        ("", 10),
        ("buffer.size=3", 8),
        ("buffer.size=9", 23),
        ("buffer.size=5 buffer.group=4 secagg.mode=masked", 21),
    ],
)
def test_each_learner_can_pay_its_part_of_all_buffers(settings: str, orders: int) -> None:
    assert orders_a_learner(config_of(*f"{EXAMPLES} learners=4 rounds=10 {settings}".split())) == orders
