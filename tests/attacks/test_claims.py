"""What a learner says of itself is bounded: no claim makes it the mean, or a round long, or the run's end."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from leader.events import FederatedEvaluated, RoundStarted, UpdateAccepted
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.attacks.claims import accuracy, answer_at_once, claim, name_addresses, own, refusal_of
from tests.attacks.kinds import each_kind, held_by, play_kind, with_and_without_trust
from tests.attacks.siege import SECURE
from tests.clusters import IMAGES, SHARDS, TINY, Settings, join, play, train
from tests.strangers import at_work, update_of

STEPPED = {**TINY, "exchange": "gradient", "train.local_steps": 0}


@each_kind
@pytest.mark.parametrize("changed", [{}, {"buffer.size": 2}, STEPPED], ids=["delta", "buffered", "gradient"])
def test_a_claim_beyond_what_one_learner_may_bring_leaves_the_run_as_it_is(
    tmp_path: Path, kind: str, changed: Settings
) -> None:
    async def attacked(cluster: Cluster) -> None:
        for examples in (1 << 34, 1_000_001):
            refusal = await claim(cluster.address, examples, held_by("thief", kind, tmp_path))
            assert f"you bring {examples} examples, at most 1000000 of one learner" in refusal
        await train(cluster)

    settings = {**TINY, **changed}
    cluster = play_kind(kind, tmp_path, attacked, settings)
    if "buffer.size" not in changed:  # where the order of arrival counts
        assert cluster.model_sha256 == play(train, settings).model_sha256


def test_an_identity_may_claim_as_much_as_anybody(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        assert await claim(cluster.address, 1_000_000, held_by("thief", SECURE, tmp_path)) == ""

    play_kind(SECURE, tmp_path, scenario)


def test_a_round_of_gradients_is_no_longer_for_a_claim_that_is_taken() -> None:
    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        join(cluster, "b")
        async with at_work(cluster.address, "thief", own_data=own(1_000_000)) as thief:
            await thief.work()
            [began] = cluster.seen(RoundStarted)
            assert began.steps == 4 * 3  # 24 points in batches of 8

    play(scenario, {**STEPPED, "learners": 3})


@with_and_without_trust
def test_scores_on_more_than_a_learner_holds_out_are_refused(tmp_path: Path, kind: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with (
            at_work(cluster.address, "honest", held_by("honest", kind, tmp_path)) as honest,
            at_work(cluster.address, "thief", held_by("thief", kind, tmp_path)) as thief,
        ):
            file = update_of(cluster.app.layout, 0.0)
            orders = await honest.work(), await thief.work()
            for examples in (1 << 40, 9):
                refusal = await refusal_of(
                    thief.send(file, orders[1].work_id, metrics=accuracy(1.0, examples))
                )
                assert f"accuracy claims {examples} held-out examples, its part has 8 at most" in refusal
            await honest.send(file, orders[0].work_id, metrics=accuracy(0.25, 8))
            await thief.send(file, orders[1].work_id, metrics=accuracy(1.0, 8))
            await cluster.committed(1)
        [told] = cluster.seen(FederatedEvaluated)
        assert (told.scores["accuracy"]["mean"], told.scores["accuracy"]["examples"]) == (0.625, 16)

    play_kind(
        kind,
        tmp_path,
        scenario,
        {**SHARDS, "rounds": 2, "evaluation.holdout": 0.25, "evaluation.federated_every": 1},
        data=IMAGES,
    )


@with_and_without_trust
@pytest.mark.parametrize("size", [2, 4])
def test_a_learner_that_answers_at_once_has_no_buffer_to_itself(tmp_path: Path, kind: str, size: int) -> None:
    async def scenario(cluster: Cluster) -> None:
        file = update_of(cluster.app.layout, 0.0)
        async with (
            at_work(cluster.address, "honest", held_by("honest", kind, tmp_path)) as honest,
            at_work(cluster.address, "thief", held_by("thief", kind, tmp_path)) as thief,
        ):
            attack = asyncio.ensure_future(answer_at_once(thief, file))
            for round_ in range(1, 5):
                order = await honest.work()
                request = leader_pb2.WorkRequest(token=honest.token)
                for _ in range(60):  # its training, in which the thief may answer as often as it likes
                    await honest.stub.GetWork(request)
                await honest.send(file, order.work_id)
                await cluster.committed(round_)
            attack.cancel()
            with suppress(asyncio.CancelledError):
                await attack
        of_round = Counter((event.round, event.learner_id) for event in cluster.seen(UpdateAccepted))
        assert [of_round[round_, 2] for round_ in range(1, 5)] == [size - 1] * 4
        assert [of_round[round_, 1] for round_ in range(1, 5)] == [1] * 4

    play_kind(kind, tmp_path, scenario, {**SHARDS, "rounds": 30, "buffer.size": size}, data=IMAGES)


@pytest.mark.parametrize(("share", "moved"), [(0.5, 0.5), (0.0, 1_000_000 / 1_000_048)])
def test_a_claim_that_is_taken_makes_up_no_more_of_the_mean_than_the_config_says(
    share: float, moved: float
) -> None:
    async def scenario(cluster: Cluster) -> None:
        before = cluster.app.coordinator.state.vector.copy()
        async with (
            at_work(cluster.address, "a", own_data=own(24)) as a,
            at_work(cluster.address, "b", own_data=own(24)) as b,
            at_work(cluster.address, "thief", own_data=own(1_000_000)) as thief,
        ):
            for learner, value, examples in ((thief, 1.0, 1_000_000), (a, 0.0, 24), (b, 0.0, 24)):
                file = update_of(cluster.app.layout, value)
                await learner.send(file, (await learner.work()).work_id, examples)
            await cluster.committed(1)
        assert cluster.app.coordinator.state.vector - before == pytest.approx(moved, abs=1e-5)

    play(scenario, {**TINY, "learners": 3, "rounds": 1, "aggregate.max_share": share})


def test_neither_the_leader_nor_another_host_nor_one_address_twice_is_dialled() -> None:
    async def scenario(cluster: Cluster) -> None:
        port = cluster.address.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "0.0.0.0", "127.0.0.2"):
            assert all(await name_addresses(cluster.address, f"{host}:{port}", 20))
        assert len(cluster.app.coordinator.workforce) == 0
        taken, *refused = await name_addresses(cluster.address, "127.0.0.1:9", 20)
        assert taken == ""
        assert all(refused)
        assert len(cluster.app.coordinator.workforce) == 1

    play(scenario, {**SHARDS, "learners": 2}, data=IMAGES)
