"""What a leader has withstood from the beginning, still does, and its run ends in the same bits.

More of the same: mutated messages of every RPC, garbage and abandoned sessions in tests/fuzz, updates sent again and
forged tokens in tests/cluster/test_resends.py, floods of secure leaders in tests/integration/test_trust_floods.py.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from scripts.cluster import Cluster
from tests.attacks import held
from tests.attacks.kinds import each_kind, play_kind, victim_of
from tests.attacks.siege import Victim, again
from tests.clusters import TINY, play, train
from tests.integration.harness import CAN_FORK, cluster_in, noise

_FEW_BYTES = 64 << 20
_INVALID, _DEADLINE, _EXHAUSTED, _UNAUTHENTICATED = 3, 4, 8, 16  # gRPC status codes


@each_kind
def test_every_attack_that_held_before_leaves_the_runs_bits_alone(tmp_path: Path, kind: str) -> None:
    attacks = (held.malformed, held.guessed, held.garbage, held.silent_sessions, held.replays)

    async def scenario(cluster: Cluster) -> None:
        victim = victim_of(cluster, kind, tmp_path)
        storm = [asyncio.create_task(again(attack)(victim)) for attack in attacks]
        await asyncio.sleep(0.3)  # they are at it when the learners come
        await train(cluster)
        for task in storm:
            task.cancel()
        await asyncio.wait(storm)

    assert play_kind(kind, tmp_path, scenario).model_sha256 == play(train).model_sha256


def test_noise_and_guesses_are_answered_with_what_is_wrong() -> None:
    async def scenario(cluster: Cluster) -> None:
        victim = Victim(cluster.address)
        assert {reply.status for reply in await held.malformed(victim)} == {_INVALID}
        assert {reply.status for reply in await held.guessed(victim)} == {_UNAUTHENTICATED}
        await train(cluster)

    play(scenario)


def test_a_session_that_says_nothing_is_ended() -> None:
    async def scenario(cluster: Cluster) -> None:
        assert set(await held.silent_sessions(Victim(cluster.address), 5)) == {_DEADLINE}
        await train(cluster)

    play(scenario, {**TINY, "limits.hello_s": 0.3})


@pytest.mark.skipif(not CAN_FORK, reason="the memory of a leader process is read in /proc")
def test_a_message_that_grpc_inflates_is_refused_before_it_is_large(tmp_path: Path) -> None:
    with cluster_in(tmp_path) as cluster:
        leader = cluster.leader(TINY)
        victim = Victim(leader.address)
        process = psutil.Process(leader.process.pid)
        before = process.memory_info().rss

        async def scenario() -> int:
            peak = 0
            for _ in range(2):
                asked = asyncio.create_task(held.bomb(victim, inflated=2 * _FEW_BYTES))
                while not asked.done():
                    await asyncio.sleep(0.005)
                    peak = max(peak, process.memory_info().rss)
                assert (await asked).status == _EXHAUSTED
            return peak

        assert asyncio.run(scenario()) - before < _FEW_BYTES


@pytest.mark.skipif(not CAN_FORK, reason="what a leader logs at its end is seen of a process")
def test_calls_that_nobody_waits_for_leave_no_traceback(tmp_path: Path) -> None:
    with cluster_in(tmp_path) as cluster:
        leader = cluster.leader({**TINY, "limits.hello_s": 60})

        async def scenario() -> None:
            victim = Victim(leader.address)
            staying = asyncio.create_task(held.silent_sessions(victim, 5))
            async with held.unread_downloads(victim, 5):
                crew = [cluster.learner(leader, "--name", name, *noise(name)) for name in "ab"]
                await asyncio.to_thread(leader.event, "RoundCommitted", round=1)
            for program in (leader, *crew):
                await asyncio.to_thread(program.succeed)
            await staying

        asyncio.run(scenario())
        assert "Traceback" not in leader.output
