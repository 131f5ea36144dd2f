"""Callers that ask for more than their share: of streams, calls, messages and lines in the log."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from leader.events import CallRefused, LearnerJoined, LearnerLeft, LearnerProgress, RunFinished
from leader.rpc.session import _AT_ONCE, _PER_S
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.attacks import floods
from tests.attacks.kinds import each_kind, play_kind, victim_of
from tests.attacks.raw_http2 import RawConnection
from tests.attacks.siege import Victim
from tests.clusters import TINY, join, train
from tests.integration.harness import CAN_FORK, cluster_in, noise, succeed

_DEADLINE = 4  # gRPC status code


@each_kind
def test_calls_that_stay_mute_shut_nobody_out(tmp_path: Path, kind: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        victim, over = victim_of(cluster, kind, tmp_path), asyncio.Event()
        # So few calls that their connection is not ended for those which are refused.
        storm = [asyncio.create_task(floods.mute_calls(victim, 30, over)) for _ in range(8)]
        await asyncio.sleep(0.5)  # all their calls are there
        storm.append(asyncio.create_task(floods.mute_calls(victim, 300, over)))
        async with asyncio.timeout(30):
            for name in "ab":
                join(cluster, name)
            await cluster.event(RunFinished)
            over.set()  # else the leader waits a while for their calls
            await cluster.finished()
        await asyncio.gather(*storm)

    play_kind(kind, tmp_path, scenario, {**TINY, "limits.hello_s": 60, "limits.max_learners": 10})


@each_kind
def test_a_call_that_sends_headers_alone_is_ended(tmp_path: Path, kind: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        victim = victim_of(cluster, kind, tmp_path)
        async with RawConnection(victim.address, victim.held) as connection, asyncio.timeout(10):
            methods = ("RegisterLearner", "GetModel", "GetWork", "AccumulateGradients", "Session")
            for method, stream in [(method, connection.open(method)) for method in methods]:
                reply = connection.replies[stream]
                await reply.ended.wait()
                assert (method, reply.status) == (method, _DEADLINE)
        await train(cluster)

    play_kind(kind, tmp_path, scenario, {**TINY, "limits.hello_s": 0.2})


@each_kind
@pytest.mark.parametrize("method", ["Session", "GetModel", "Nothing"])
def test_a_connection_whose_calls_are_all_broken_off_is_ended(tmp_path: Path, kind: str, method: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        victim = victim_of(cluster, kind, tmp_path)
        async with asyncio.timeout(20):
            for _ in range(2):
                await floods.resets(victim, method)
            await train(cluster)
        told = [event for event in cluster.seen(CallRefused) if event.reason.endswith("it is ended")]
        assert len(told) == 2

    play_kind(kind, tmp_path, scenario)


@each_kind
def test_streams_that_are_reset_at_once_are_gone_before_they_cost_anything(tmp_path: Path, kind: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        victim = victim_of(cluster, kind, tmp_path)
        storm = asyncio.create_task(floods.rapid_resets(victim))
        await asyncio.sleep(0.3)  # it is at it
        async with asyncio.timeout(30):
            await train(cluster)
        storm.cancel()
        await asyncio.wait([storm])

    play_kind(kind, tmp_path, scenario)


@each_kind
def test_a_session_is_read_no_faster_than_a_learner_speaks(tmp_path: Path, kind: str) -> None:
    progress = leader_pb2.LearnerMessage(progress=leader_pb2.Progress(done=1, total=2, images_per_s=1))

    async def scenario(cluster: Cluster) -> None:
        victim, began = victim_of(cluster, kind, tmp_path), time.monotonic()
        storm = asyncio.create_task(floods.chatter(victim, 20_000, progress))
        most = _AT_ONCE + _PER_S // 4  # a quarter of a second later
        await cluster.until(lambda: len(cluster.seen(LearnerProgress)) >= most, "no progress")
        assert len(cluster.seen(LearnerProgress)) <= _AT_ONCE + _PER_S * (time.monotonic() - began) + 1
        storm.cancel()
        await asyncio.wait([storm])

    play_kind(kind, tmp_path, scenario)


@pytest.mark.skipif(not CAN_FORK, reason="needs a process of its own")
def test_learners_that_come_and_go_are_summed_up_in_the_log(tmp_path: Path) -> None:
    count = 240

    async def storm(address: str) -> None:
        for _ in range(count // 8):
            await asyncio.gather(*(floods.passing(Victim(address)) for _ in range(8)))

    with cluster_in(tmp_path) as cluster:
        # Else a run that began with some of those who pass would wait for as many again.
        leader = cluster.leader({**TINY, "cohort.require": "fit"})
        asyncio.run(storm(leader.address))
        crew = [cluster.learner(leader, "--name", name, "--tags", "fit", *noise(name)) for name in "ab"]
        succeed(leader, *crew)
    kinds = (LearnerJoined.__name__, LearnerLeft.__name__)
    one_by_one = [len(leader.events(kind)) for kind in kinds]
    sums = leader.events("LearnersCounted")
    assert sum(one_by_one) < 200
    assert one_by_one[0] + sum(line["joined"] for line in sums) == count + 2
    assert one_by_one[1] + sum(line["left"] for line in sums) == count  # the two stay to the end
