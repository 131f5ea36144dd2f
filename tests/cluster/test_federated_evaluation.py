"""Learners score the model on examples that they hold out, and the leader sums that up round by round."""

from __future__ import annotations

import asyncio

import pytest
from safetensors import safe_open

from leader.events import FederatedEvaluated, RoundCommitted, UpdateAccepted
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from scripts.cluster import Cluster
from tests.clusters import IMAGES, TIMEOUT_S, TINY, Settings, play, train

SETTINGS: Settings = {
    "learners": 2,
    "rounds": 3,
    "seed": 7,
    "model.name": "resnet20",
    "train.batch_size": 16,
    "train.local_steps": 2,
    "train.dtype": "float32",
    "evaluation.holdout": 0.25,
    "evaluation.federated_every": 1,
    "evaluation.metric": "federated.loss",
    "evaluation.mode": "max",
}


def test_learners_score_each_round_s_model_on_what_they_do_not_train_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "ab":
            cluster.learner(name)
        await cluster.finished()
        counted = [event.round for event in cluster.seen(UpdateAccepted)]
        assert counted == [1, 1, 2, 2, 3, 3, 4, 4]  # the last ones bring scores alone
        check_told(cluster)
        check_kept(cluster)

    play(scenario, SETTINGS, data=IMAGES)


@pytest.mark.parametrize(
    "settings",
    [
        {"aggregate.weighting": "fednova"},
        {"aggregate.weighting": "qfedavg"},
        {"streaming.fragments": 2, "streaming.overlap_steps": 1},
    ],
    ids=["fednova", "qfedavg", "fragments"],
)
def test_the_last_model_is_scored_however_rounds_are_made(settings: Settings) -> None:
    evaluation = {"evaluation.holdout": 0.25, "evaluation.federated_every": 3}
    cluster = play(train, {**TINY, **evaluation, **settings})
    [scores] = [event.scores for event in cluster.seen(FederatedEvaluated) if event.round == 3]
    assert scores["squared_error"]["learners"] == 2


def check_told(cluster: Cluster) -> None:
    told = {event.round: event.scores for event in cluster.seen(FederatedEvaluated)}
    assert list(told) == [0, 1, 2, 3]
    lines = cluster.metrics
    assert [line["examples"] for line in lines] == [48, 48, 48]  # of 64 images
    assert [line.get("federated") for line in lines] == [told[1], told[2], told[3]]
    assert [event.round for event in cluster.seen(RoundCommitted)] == [1, 2, 3]
    for scores in told.values():
        assert list(scores) == ["accuracy", "loss"]
        assert (scores["loss"]["learners"], scores["loss"]["examples"]) == (2, 16)
        assert scores["loss"]["worst_decile"] == scores["loss"]["max"]
        assert scores["accuracy"]["mean"] * 16 == round(scores["accuracy"]["mean"] * 16)


def check_kept(cluster: Cluster) -> None:
    told = {event.round: event.scores for event in cluster.seen(FederatedEvaluated)}
    assert (cluster.summary["federated"], cluster.summary["federated_round"]) == (told[3], 3)
    best = max((1, 2, 3), key=lambda number: told[number]["loss"]["mean"])
    value = told[best]["loss"]["mean"]
    assert cluster.summary["best"] == {"round": best, "metric": "federated.loss", "value": value}
    checkpoint = cluster.run_dir / "checkpoints" / f"round-{best:08d}.safetensors"
    with (
        safe_open(cluster.run_dir / "best.safetensors", "numpy") as kept,
        safe_open(checkpoint, "numpy") as state,
    ):
        flat = b"".join(kept.get_tensor(name).tobytes() for name in kept.offset_keys())
        assert flat == state.get_tensor("vector").tobytes()


class Slow(Worker):
    """Keeps its scores of the last model back until they may go."""

    held: asyncio.Event  # they are made
    may_go: asyncio.Event

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if held.round == 4:
            self.held.set()
            await self.may_go.wait()
        await super()._send(to, held, resume=resume)


def test_a_leader_that_was_killed_while_the_last_model_was_scored_asks_again_and_once() -> None:
    async def scenario(cluster: Cluster) -> None:
        Slow.held, Slow.may_go = asyncio.Event(), asyncio.Event()
        cluster.learner("a")
        cluster.learner("b", worker=Slow)
        await asyncio.wait_for(Slow.held.wait(), TIMEOUT_S)
        await cluster.leader.kill()
        assert [event.round for event in cluster.seen(FederatedEvaluated)] == [0, 1, 2]
        Slow.may_go.set()
        await cluster.resume()
        await cluster.finished()
        check_told(cluster)
        check_kept(cluster)
        await cluster.resume()  # all is known: nobody is waited for
        await cluster.finished()
        check_kept(cluster)

    play(scenario, {**SETTINGS, "cohort.lease_s": TIMEOUT_S}, data=IMAGES)


def test_a_run_that_is_resumed_for_scores_alone_ends_without_them_when_nobody_comes() -> None:
    async def scenario(cluster: Cluster) -> None:
        Slow.held, Slow.may_go = asyncio.Event(), asyncio.Event()
        learners = [cluster.learner(name, worker=Slow) for name in "ab"]
        await asyncio.wait_for(Slow.held.wait(), TIMEOUT_S)
        for program in (cluster.leader, *learners):
            await program.kill()
        await cluster.resume(cohort__lease_s=0.2)
        await cluster.finished()
        assert cluster.summary["federated_round"] == 2

    play(scenario, SETTINGS, data=IMAGES)
