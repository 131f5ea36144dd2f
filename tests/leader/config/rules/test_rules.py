"""Settings that make no sense together are refused with the reason, and sensible ones are not."""

from __future__ import annotations

import pytest

from leader.config.rules import problems
from leader.config.rules.aggregate import least_updates, updates_a_round
from tests.leader.config.settings import assert_refused, config_of, refusal

SCORED = (
    "secagg.mode=masked data.holder=learner learners=3 cohort.quorum=1 evaluation.holdout=0.1 "
    "evaluation.federated_every=1"
)
SIGNED = "secagg.mode=signed data.holder=learner learners=3 trust.mode=on cohort.quorum=1"
REFUSED = {
    "krum": ("aggregate.rule=krum aggregate.byzantine=1 learners=4", "2 x 1 + 3 = 5 updates", "close on 4"),
    "multi_krum": ("aggregate.rule=multi_krum learners=2", "2 x 0 + 3 = 3 updates", "close on 2"),
    "bulyan": ("aggregate.rule=bulyan aggregate.byzantine=2 learners=10", "4 x 2 + 3 = 11", "close on 10"),
    "trimmed": ("aggregate.rule=trimmed_mean aggregate.byzantine=2 learners=4", "2 x 2 + 1 = 5", "on 4"),
    "median": ("aggregate.rule=median aggregate.byzantine=1 learners=2", "2 x 1 + 1 = 3", "close on 2"),
    "rfa": ("aggregate.rule=geometric_median aggregate.byzantine=3 learners=6", "+ 1 = 7", "on 6"),
    "quorum": (
        "aggregate.rule=krum aggregate.byzantine=1 learners=6 cohort.quorum=0.6",
        "needs 2 x 1 + 3 = 5 updates, but a round may close on 4",
    ),
    "pairs": (
        "aggregate.rule=krum learners=363 cohort.quorum=0.5 aggregate.spool_bytes=1048576",
        "all pairs of 363 updates in 1054152 bytes",
    ),
    "half a PKI": (
        "trust.mode=on trust.certificate=c.pem trust.key=k.pem",
        "trust.certificate is set, and a PKI of your own needs trust.client_ca, trust.roles too",
    ),
    "two of them": (
        "trust.mode=on trust.certificate=c trust.key=k trust.client_ca=a trust.roles=r trust.jwt_jwks=j",
        "trust.jwt_jwks is set",
        "trust.certificate puts another PKI in its place",
    ),
    "no trust": (
        "trust.plain_listen=127.0.0.1:1",
        "trust.plain_listen is set, but there is no trust on 127.0.0.1:50051 (trust.mode is auto)",
        "set trust.mode=on (--secure)",
    ),
    "http with steps": (
        "http.listen=127.0.0.1:0 exchange=gradient",
        "exchange is gradient, where each step is an exchange: set exchange=delta, or leave http.listen empty",
    ),
    "http with masks": (
        "http.listen=127.0.0.1:0 secagg.mode=masked data.holder=learner learners=3",
        "secagg.mode is masked, whose masks are agreed on over sessions: set secagg.mode=off",
    ),
    "http for nobody": (
        "http.listen=0.0.0.0:8080",
        "nothing says whose JWTs they are known by: set trust.jwt_issuer or trust.jwt_jwks",
    ),
    "http with half a pair": (
        "http.listen=127.0.0.1:0 trust.mode=on trust.jwt_jwks=j http.key=k",
        "http.certificate and http.key belong together",
    ),
    "http without TLS": (
        "http.listen=127.0.0.1:0 http.certificate=c http.key=k",
        "http.certificate is c, but nothing is encrypted (trust.mode is auto)",
    ),
    "http nowhere": ("http.listen=here trust.mode=off", "http.listen is 'here', but it must be HOST:PORT"),
    "edges nowhere": (
        "edges.listen=0.0.0.0:99999",
        "edges.listen is '0.0.0.0:99999', but it must be HOST:PORT",
    ),
    "a page nowhere": ("web.listen=:8051", "web.listen is ':8051', but it must be HOST:PORT"),
    "no address": (
        "trust.mode=on trust.plain_listen=here",
        "trust.plain_listen is 'here', but it must be HOST:PORT",
    ),
    "byzantine mean": ("aggregate.byzantine=2", "aggregate.rule is mean", "choose a robust rule"),
    "norms": ("aggregate.clip_norm=3 aggregate.reject_norm=2", "nothing is left to clip"),
    "share rule": (
        "aggregate.max_share=0.5 aggregate.rule=median learners=3",
        "aggregate.max_share is 0.5",
        "aggregate.rule is median, under which all count the same",
    ),
    "share weighting": ("aggregate.max_share=0.5 aggregate.weighting=fednova", "weighting is fednova: set"),
    "share buffer": ("aggregate.max_share=0.5 buffer.size=4", "buffer.size is 4", "weighting=uniform"),
    "share too small": (
        "aggregate.max_share=0.4 learners=4 cohort.quorum=0.5",
        "a round may close on 2 updates, of which one is at least 0.5: raise it",
    ),
    "signed without trust": (
        f"{SIGNED} trust.mode=auto",
        "secagg.mode is signed, but there is no trust on 127.0.0.1:50051 (trust.mode is auto)",
        "so that nobody has an identity to sign with: set trust.mode=on (--secure)",
    ),
    "signed by others": (
        f"{SIGNED} trust.certificate=c trust.key=k trust.client_ca=ca trust.roles=r",
        "secagg.mode is signed, but trust.certificate is set, and learners sign by identities of the leader's own CA",
        "set secagg.mode=masked",
    ),
    "masked scores": (
        f"{SCORED} secagg.metrics=a-b",
        "secagg.metrics is 'a-b', but it names 1 to 16 scores",
    ),
    "masked scores that decide": (
        f"{SCORED} secagg.metrics=loss evaluation.metric=federated.accuracy",
        "masked learners tell no other scores: add accuracy to secagg.metrics",
    ),
    "signed by few": (
        f"{SIGNED} secagg.threshold=0.6",
        "secagg.mode is signed, but secagg.threshold is 0.6, and with a few learners that lie two sums could",
        "set 0, which is two thirds, or more",
    ),
    "masked shares of a mean": (
        "secagg.mode=masked data.holder=learner learners=5 cohort.quorum=0.8 aggregate.max_share=0.3",
        "secagg.mode is masked, but aggregate.max_share is set, which must see each update",
        "set aggregate.max_share=0",
    ),
    "masks of more than can agree": (
        "secagg.mode=masked data.holder=learner learners=10001 cohort.quorum=0.8",
        "learners asks 10001 learners for one masked sum, and no more than 10000 can agree on masks: "
        "set cohort.size=10000, or fewer",
    ),
    "coarse masks": (
        "secagg.mode=masked secagg.bits=16 data.holder=learner learners=259 cohort.quorum=0.8",
        "secagg.bits is 16, in which a value of one of 259 learners has 126 levels to each side, and should have 127: "
        "set secagg.bits=32, or ask fewer a round (cohort.size)",
    ),
    "fednova rule": ("aggregate.weighting=fednova aggregate.rule=median", "counts each update once"),
    "qfedavg rule": ("aggregate.weighting=qfedavg aggregate.rule=median", "counts each update once"),
    "fednova gradient": ("aggregate.weighting=fednova exchange=gradient", "about local steps"),
    "qfedavg gradient": ("aggregate.weighting=qfedavg exchange=gradient", "about local steps"),
    "qfedavg buffer": ("aggregate.weighting=qfedavg buffer.size=2", "set buffer.size=0"),
    "optimizer": ("server.optimizer=fedadam exchange=gradient", "fedadam", "set exchange=delta"),
    "proximal": ("train.proximal_mu=0.1 exchange=gradient", "train.proximal_mu is 0.1", "exchange=delta"),
    "ditto": ("train.personal_lambda=2 exchange=gradient", "train.personal_lambda is 2", "exchange=delta"),
    "scaffold gradient": (
        "train.control_variates=true train.local_steps=5 exchange=gradient",
        "train.control_variates is true, which changes local steps, but exchange is gradient",
    ),
    "local": ("model.local=*.norm.* exchange=gradient", "'*.norm.*'", "would never be trained"),
    "scaffold steps": (
        "train.control_variates=true",
        "set train.local_steps",
    ),
    "scaffold rule": (
        "train.control_variates=true train.local_steps=5 aggregate.rule=median",
        "set aggregate.rule=mean",
    ),
    "scaffold buffer": (
        "train.control_variates=true train.local_steps=5 buffer.size=3",
        "set buffer.size=0",
    ),
    "buffer gradient": ("buffer.size=3 exchange=gradient", "all must step together"),
    "buffer over-selection": (
        "buffer.size=3 cohort.size=4 cohort.over_selection=1.5",
        "nobody is waited for",
    ),
    "buffer federated": (
        "buffer.size=3 evaluation.federated_every=1 evaluation.holdout=0.1",
        "scores one model at all learners",
        "set evaluation.federated_every=0",
    ),
    "buffer learned deadline": (
        "buffer.size=3 cohort.deadline_k=3 cohort.quorum=0.7",
        "one piece of work",
        "set cohort.deadline_k=0",
    ),
    "scaffold qfedavg": (
        "train.control_variates=true train.local_steps=5 aggregate.weighting=qfedavg",
        "a step of another length: set aggregate.weighting=examples",
    ),
    "scaffold clipped": (
        "train.control_variates=true train.local_steps=5 aggregate.clip_norm=2.5",
        "aggregate.clip_norm is 2.5, which shortens some",
        "set aggregate.clip_norm=0",
    ),
    "fednova proximal": (
        "aggregate.weighting=fednova train.proximal_mu=0.1",
        "train.proximal_mu is 0.1, which damps them",
        "set train.proximal_mu=0",
    ),
    "streamed gradients": (
        "streaming.fragments=4 exchange=gradient",
        "streaming.fragments is 4",
        "set exchange=delta",
    ),
    "streamed buffer": ("streaming.fragments=4 buffer.size=3", "rounds have no order: set buffer.size=0"),
    "streamed proximal": ("streaming.fragments=4 train.proximal_mu=0.1", "train.proximal_mu is 0.1"),
    "streamed ditto": ("streaming.fragments=4 train.personal_lambda=1", "train.personal_lambda is 1"),
    "streamed scaffold": (
        "streaming.fragments=4 train.control_variates=true train.local_steps=5",
        "train.control_variates is true, which is about those of the round's model",
    ),
    "streamed local": ("streaming.fragments=4 model.local=*.norm.*", "'*.norm.*'", "leave it out"),
    "streamed qfedavg": ("streaming.fragments=4 aggregate.weighting=qfedavg", "set it to examples"),
    "overlap of nothing": ("streaming.overlap_steps=2", "set streaming.fragments, such as 4"),
    "overlap of all": (
        "streaming.fragments=4 streaming.overlap_steps=5 train.local_steps=5",
        "takes the fragment in before the last",
    ),
    "oort": ("cohort.policy=oort", "cohort.size is 0, which takes all: set cohort.size"),
    "power of choice": ("cohort.policy=power_of_choice", "set cohort.size"),
    "by examples": ("cohort.policy=by_examples", "set cohort.size"),
    "round robin": ("cohort.policy=round_robin", "set cohort.size"),
    "groups": ("data.partition=groups", "data.source is cifar10", "an image tree"),
    "groups of none": ("data.partition=groups data.source=none data.holder=learner", "data.source is none"),
    "task": ("model.task=package.module:Name", "data.holder is leader", "set data.holder=learner"),
    "no model": ("model.name=''", "nothing says what the model is"),
    "JWTs of nobody": (
        "trust.mode=on trust.jwt_listen=0.0.0.0:50052",
        "trust.jwt_listen is 0.0.0.0:50052",
        "set trust.jwt_issuer, or trust.jwt_jwks",
    ),
    "JWTs by http": (
        "trust.jwt_issuer=http://issuer.example",
        "trust.jwt_issuer is http://issuer.example",
        "set its https:// address, or trust.jwt_jwks",
    ),
    "JWTs for anybody": ("trust.jwt_audience=''", "trust.jwt_audience is ''"),
    "JWTs with any role": ("trust.jwt_role_claim=''", "trust.jwt_role_claim is ''"),
    "holdout": ("evaluation.federated_every=1", "set evaluation.holdout"),
    "target never": ("evaluation.target=0.9 evaluation.every=0", "set evaluation.every"),
    "patience never": ("evaluation.patience=3 evaluation.every=0", "set evaluation.every"),
    "a tree of medians": (
        "edges.listen=127.0.0.1:1 aggregate.rule=median",
        "aggregate.rule is median, and edges merge sums alone, of which there is no median",
        "set services.kafka.brokers, aggregate.rule=mean, or leave edges.listen empty",
    ),
    "a log for krum": (
        "edges.listen=127.0.0.1:1 services.kafka.brokers=127.0.0.1:2 learners=3 aggregate.rule=krum",
        "aggregate.rule is krum, which must see all of them",
    ),
    "a log of too many": (
        "edges.listen=127.0.0.1:1 services.kafka.brokers=127.0.0.1:2 learners=50001",
        "a round has 50001 updates: set cohort.size to 50000",
    ),
    "events to nowhere": (
        "services.kafka.events=runs",
        "services.kafka.brokers is empty: say where Kafka is",
    ),
    "a mean that learners don't score": (
        "server.average=0.2 evaluation.metric=federated.loss evaluation.federated_every=1 evaluation.holdout=0.1",
        "name a metric of the leader's test split",
    ),
    "federated target": (
        "evaluation.metric=federated.accuracy evaluation.target=0.9",
        "set evaluation.federated_every",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_combination_that_makes_no_sense_is_refused_with_the_reason(case: str) -> None:
    assert_refused(*REFUSED[case])


@pytest.mark.parametrize(
    "settings",
    [
        "aggregate.rule=krum aggregate.byzantine=1 learners=5",
        "streaming.fragments=4 streaming.overlap_steps=4 train.local_steps=5 aggregate.rule=median learners=3",
        "streaming.fragments=4 streaming.overlap_steps=9 codec.up=topk codec.down=int8",
        "aggregate.rule=multi_krum learners=3",
        "aggregate.rule=bulyan aggregate.byzantine=2 learners=11",
        "aggregate.rule=trimmed_mean aggregate.byzantine=2 learners=5",
        "aggregate.rule=median aggregate.byzantine=1 learners=3",
        "aggregate.rule=krum aggregate.byzantine=1 data.shards=5",
        "aggregate.rule=krum aggregate.byzantine=1 buffer.size=5",
        "aggregate.rule=krum aggregate.byzantine=1 learners=7 cohort.quorum=0.7",
        "aggregate.rule=krum aggregate.byzantine=1 learners=5 exchange=gradient",
        "aggregate.rule=krum learners=362 aggregate.spool_bytes=1048576",
        "aggregate.byzantine=2 aggregate.clip_norm=1",
        "aggregate.byzantine=2 aggregate.reject_norm=1",
        "aggregate.clip_norm=1 aggregate.reject_norm=2",
        "aggregate.weighting=fednova buffer.size=4",
        "aggregate.weighting=qfedavg",
        "aggregate.max_share=0.3333 learners=3",
        "aggregate.max_share=1 aggregate.weighting=uniform buffer.size=4",
        "aggregate.weighting=uniform aggregate.rule=median",
        "server.optimizer=fedadam",
        "train.proximal_mu=1 train.personal_lambda=1 model.local=*.norm.*",
        "train.control_variates=true train.local_steps=5",
        "buffer.size=3 server.optimizer=fedavgm",
        "cohort.policy=oort cohort.size=2",
        "secagg.mode=masked secagg.bits=16 data.holder=learner learners=900 cohort.size=258 cohort.quorum=0.8",
        "data.partition=groups data.source=pictures",
        "model.task=package.module:Name data.holder=learner train.label_smoothing=0.1 train.augment=standard",
        "model.name='' model.weights=start.safetensors",
        "model.name='' model.task=package.module:Name data.holder=learner",
        "trust.mode=on trust.jwt_listen=0.0.0.0:50052 trust.jwt_issuer=https://issuer.example",
        "trust.mode=on trust.jwt_listen=0.0.0.0:50052 trust.jwt_jwks=keys.json",
        "trust.jwt_issuer=clinics trust.jwt_jwks=keys.json",
        "evaluation.federated_every=1 evaluation.holdout=0.1",
        "evaluation.metric=federated.loss evaluation.patience=3 evaluation.federated_every=2 "
        "evaluation.holdout=0.1 evaluation.every=0",
        "evaluation.every=0",
    ],
)
def test_a_combination_that_makes_sense_is_taken(settings: str) -> None:
    assert problems(config_of(*settings.split())) == []


@pytest.mark.parametrize(
    ("settings", "updates"),
    [
        ("learners=5", 5),
        ("learners=5 data.shards=20", 20),
        ("learners=5 data.shards=20 data.holder=learner", 5),
        ("learners=5 data.shards=20 cohort.size=7", 7),
        ("learners=5 cohort.size=7", 5),
        ("learners=5 cohort.quorum=0.5", 3),
        ("learners=50 buffer.size=9", 9),
        ("learners=3 cohort.quorum=0", 1),
    ],
)
def test_a_round_closes_on_no_fewer_updates(settings: str, updates: int) -> None:
    assert updates_a_round(config_of(*settings.split())) == updates


def test_what_rules_need() -> None:
    needs = {
        rule: [least_updates(rule, f) for f in (0, 1, 2)]
        for rule in ("mean", "median", "trimmed_mean", "geometric_median", "krum", "multi_krum", "bulyan")
    }
    assert needs == {
        "mean": [1, 1, 1],
        "median": [1, 3, 5],
        "trimmed_mean": [1, 3, 5],
        "geometric_median": [1, 3, 5],
        "krum": [3, 5, 7],
        "multi_krum": [3, 5, 7],
        "bulyan": [3, 7, 11],
    }


def test_all_problems_are_told_at_once_with_where_they_come_from() -> None:
    line = refusal("exchange=gradient", "train.proximal_mu=0.1", "aggregate.byzantine=2")
    assert line.startswith("--set")
    assert line.count("; ") == 1
    assert "exchange is gradient: set exchange=delta" in line
    assert "aggregate.byzantine is 2 but" in line
