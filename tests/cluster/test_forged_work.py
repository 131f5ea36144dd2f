"""Work of others: its ids can't be computed, and nobody else's update or failure counts for it."""

from __future__ import annotations

import hashlib
import hmac
import logging
import zlib
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import aio

from leader.data.part import Part
from leader.events import LearnerJoined, UpdateAccepted
from leader.learners.rendezvous import Rendezvous
from leader.storage.checkpoint import load_newest, save_checkpoint
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.attacks.kinds import held_by, play_kind, with_and_without_trust
from tests.clusters import IMAGES, SHARDS, TINY, join, play, train
from tests.strangers import Stranger, at_work, update_of


def guesses(mine: leader_pb2.WorkOrder, run_id: str, shard: int) -> Iterator[str]:
    """The id of another shard's work as an attacker computes it: from its own order and tries for seed and secret."""
    examples = len(IMAGES.train.labels) // 2 if IMAGES.train else 0
    [seed] = [s for s in range(8) if Part.of_shard(mine.shard, examples, s).seed == mine.seed]
    other = leader_pb2.WorkOrder()
    other.CopyFrom(mine)
    other.ClearField("work_id")
    other.shard, part = shard, Part.of_shard(shard, examples, seed)
    other.seed = part.seed
    said = f"{part.id}:".encode() + other.SerializeToString(deterministic=True)
    for digest in (
        hashlib.sha256(f"{run_id}:".encode() + said).hexdigest(),
        *(hmac.new(secret.encode(), said, hashlib.sha256).hexdigest() for secret in ("", run_id)),
    ):
        yield f"{other.round}-{other.step}-{digest[:32]}"


@with_and_without_trust
def test_the_id_of_anothers_work_can_not_be_computed_from_what_a_learner_is_told(
    tmp_path: Path, kind: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        held, its = held_by("victim", kind, tmp_path), held_by("attacker", kind, tmp_path)
        async with (
            at_work(cluster.address, "victim", held) as victim,
            Stranger(cluster.address, its) as attacker,
        ):
            run = (await attacker.register("attacker")).run
            await attacker.open_session()
            owned, mine = await victim.work(), await attacker.work()
            file = update_of(cluster.app.layout, 9.0)
            for work_id in guesses(mine, run.run_id, owned.shard):
                with pytest.raises(aio.AioRpcError) as refusal:
                    await attacker.send(file, work_id)
                assert refusal.value.code() is grpc.StatusCode.ABORTED
                assert "work of round 1, step 0 is no longer open" in str(refusal.value.details())
            for learner, order in ((victim, owned), (attacker, mine)):
                await learner.send(update_of(cluster.app.layout, 0.0), order.work_id)
            await cluster.committed(1)
        by = {event.name: event.learner_id for event in cluster.seen(LearnerJoined)}
        assert [event.learner_id for event in cluster.seen(UpdateAccepted)] == [by["victim"], by["attacker"]]

    play_kind(kind, tmp_path, scenario, SHARDS, data=IMAGES)


@with_and_without_trust
def test_an_update_counts_only_from_the_learner_that_was_given_the_work_even_by_its_true_id(
    tmp_path: Path, kind: str
) -> None:
    async def scenario(cluster: Cluster) -> None:
        async with (
            at_work(cluster.address, "victim", held_by("victim", kind, tmp_path)) as victim,
            at_work(cluster.address, "attacker", held_by("attacker", kind, tmp_path)) as attacker,
        ):
            owned, _ = await victim.work(), await attacker.work()
            file = update_of(cluster.app.layout, 9.0)
            request = leader_pb2.UploadRequest(
                token=attacker.token, work_id=owned.work_id, total_bytes=len(file), crc32=zlib.crc32(file)
            )
            for call in (attacker.send(file, owned.work_id), attacker.stub.GetUpload(request)):
                with pytest.raises(aio.AioRpcError) as refusal:
                    await call
                assert refusal.value.code() is grpc.StatusCode.ABORTED
                assert refusal.value.details() == (
                    "leader: work of round 1, step 0 was given to another learner; wait for work of your own"
                )
            assert (await victim.send(file, owned.work_id)).success

    play_kind(kind, tmp_path, scenario, SHARDS, data=IMAGES)


def test_the_shard_of_a_learner_that_left_is_counted_from_it_and_from_its_heir() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with at_work(cluster.address, "first") as first, at_work(cluster.address, "heir") as heir:
            left = await first.work()
            await heir.work()
            first.say(goodbye=leader_pb2.Goodbye(reason="done"))
            inherited = await heir.work()
            assert inherited == left
            await first.register(
                "first"
            )  # with an update of its old work in hand, and no right to it any more
            file = update_of(cluster.app.layout, 0.0)
            assert (await first.send(file, left.work_id)).success
            with pytest.raises(aio.AioRpcError) as refusal:
                await heir.send(file, inherited.work_id)
            assert refusal.value.code() is grpc.StatusCode.ALREADY_EXISTS

    play(scenario, SHARDS, data=IMAGES)


async def fail(stranger: Stranger, order: leader_pb2.WorkOrder) -> None:
    """Say that this work can't be done; the leader then lets it go."""
    stranger.say(failure=leader_pb2.Failure(work_id=order.work_id, message="can't do it"))
    await stranger.ended()


def test_made_up_learners_that_can_not_do_their_work_do_not_end_the_run() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            x, y, honest = [
                await stack.enter_async_context(at_work(cluster.address, name))
                for name in ("x", "y", "honest")
            ]
            file = update_of(cluster.app.layout, 0.0)
            await honest.send(file, (await honest.work()).work_id)
            lost = await x.work()
            await y.work()
            await fail(x, lost)
            assert await y.work() == lost
            await fail(y, lost)
            for order in [await honest.work(), await honest.work()]:
                await honest.send(file, order.work_id)
            await cluster.committed(1)

    cluster = play(scenario, {**SHARDS, "learners": 3}, data=IMAGES)
    assert [event.learner_id for event in cluster.seen(UpdateAccepted)] == [3, 3, 3]


@pytest.mark.parametrize("proven", [True, False])
def test_work_that_fails_on_all_who_are_here_ends_the_run_with_their_reason(
    proven: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, waited = Rendezvous._wait, list[float]()

    async def shortly(self: Rendezvous, condition: Callable[[], bool], wait_s: float) -> bool:
        waited.append(wait_s)
        return await waits(self, condition, 0.1)

    async def scenario(cluster: Cluster) -> None:
        async with AsyncExitStack() as stack:
            names = ("x", "y", "stays") if proven else ("x", "y")
            x, y, *others = [
                await stack.enter_async_context(at_work(cluster.address, name)) for name in names
            ]
            if proven:
                for learner in (x, y, *others):
                    await learner.send(update_of(cluster.app.layout, 0.0), (await learner.work()).work_id)
                await cluster.committed(1)
            lost = await x.work()
            await y.work()
            await fail(x, lost)
            assert await y.work() == lost
            monkeypatch.setattr(Rendezvous, "_wait", shortly)
            await fail(y, lost)
            for learner in others:
                await fail(learner, await learner.work())
            ended = await cluster.finished()
        last = "stays" if proven else "y"
        assert ended.reason == f"learner {last} failed: can't do it"

    settings = {**SHARDS, "rounds": 5, "learners": 3 if proven else 2, "cohort.lease_s": 21}
    play(scenario, settings, data=IMAGES)
    # For others to come, where anybody may have made up those that failed.
    assert waited == ([] if proven else [21])


def test_the_runs_secret_is_in_its_checkpoints_alone_and_outlives_a_restart(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)

    async def scenario(cluster: Cluster) -> None:
        join(cluster, "a")
        join(cluster, "b")
        await cluster.committed(1)
        secret = cluster.app.coordinator.state.secret
        assert len(bytes.fromhex(secret)) == 32
        await cluster.resume()
        assert cluster.app.coordinator.state.secret == secret
        await cluster.finished()
        files = [path for path in cluster.run_dir.rglob("*") if path.is_file()]
        found = {path.parent.name for path in files if secret.encode() in path.read_bytes()}
        assert found == {"checkpoints"}
        assert secret not in caplog.text + repr(cluster.app.coordinator.state) + repr(cluster.events)

    play(scenario, TINY)


def test_a_checkpoint_of_a_release_without_secrets_is_resumed_to_the_same_bits() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "ab":
            join(cluster, name)
        await cluster.committed(1)
        await cluster.leader.kill()
        folder = cluster.run_dir / "checkpoints"
        state = replace(load_newest(folder), secret="")
        save_checkpoint(folder, state, keep=1, config="{}")
        await cluster.resume()
        assert len(cluster.app.coordinator.state.secret) == 64
        await cluster.finished()

    assert play(scenario, TINY).model_sha256 == play(train, TINY).model_sha256
