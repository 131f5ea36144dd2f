"""Connections that nobody needs: the run has its descriptors, and newcomers get in."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from scripts.cluster import Cluster
from tests.attacks import floods
from tests.attacks.kinds import each_kind, play_kind, settings_of, victim_of, with_and_without_trust
from tests.attacks.siege import SECURE, again
from tests.clusters import TIMEOUT_S, TINY, join
from tests.integration.harness import CAN_FORK, cluster_in, noise, succeed

_FILES = 256


@pytest.mark.skipif(not CAN_FORK, reason="needs a process of its own")
@with_and_without_trust
def test_connections_that_say_nothing_leave_the_run_its_descriptors(tmp_path: Path, kind: str) -> None:
    with cluster_in(tmp_path) as cluster:
        run_dir = tmp_path / "run"
        settings = {**TINY, **settings_of(kind, tmp_path), "rounds": 60}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        given = ["--listen", "127.0.0.1:0", "--run-dir", str(run_dir), "--log-format", "json", *sets]
        few_files = ["tests.attacks.few_files", str(_FILES), *given]
        leader = cluster.program("leader", few_files, faults="stop@leader.selecting:2")
        address = str(leader.event("RunStarted")["address"])
        crew = [
            cluster.join(address, name, *noise(name))
            if kind == SECURE
            else cluster.learner(address, "--name", name, *noise(name))
            for name in "ab"
        ]
        leader.frozen()  # with its learners: how long newcomers wait in a flood is not bounded
        attacker = cluster.program("attacker", ["tests.attacks.attacker", "silent-connections", address])
        attacker.event("Deeds")
        leader.signal(signal.SIGCONT)
        succeed(leader, *crew)
        attacker.kill()
        assert leader.events("RoundCommitted")[-1]["round"] == 60
        assert "128 connections at once and not 2064" in leader.output


@each_kind
def test_connections_without_a_call_go_when_others_come(tmp_path: Path, kind: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        victim = victim_of(cluster, kind, tmp_path)
        storm = asyncio.create_task(again(floods.idle_connection, at_once=60, pause_s=1.0)(victim))
        await asyncio.sleep(0.5)  # all places are taken
        async with asyncio.timeout(TIMEOUT_S):
            for name in "ab":
                join(cluster, name)
            await cluster.finished()
        storm.cancel()
        await asyncio.wait([storm])

    play_kind(kind, tmp_path, scenario, {**TINY, "limits.connections": 40})
