"""Connections that nobody needs: the run has its descriptors, and newcomers get in."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from scripts.cluster import Cluster
from tests.attacks import floods
from tests.attacks.siege import Victim, again
from tests.clusters import TIMEOUT_S, TINY, Settings, join, play
from tests.integration.harness import CAN_FORK, cluster_in, noise, succeed
from tests.leader.trust.fleet import Fleet

_FILES = 256


def _settings(folder: Path, mode: str) -> Settings:
    return {**TINY, **({"trust.mode": "on", "trust.dir": folder / "trust"} if mode == "secure" else {})}


@pytest.mark.skipif(not CAN_FORK, reason="needs a process of its own")
@pytest.mark.parametrize("mode", ["plain", "secure"])
def test_connections_that_say_nothing_leave_the_run_its_descriptors(tmp_path: Path, mode: str) -> None:
    with cluster_in(tmp_path) as cluster:
        run_dir = tmp_path / "run"
        settings = {**_settings(tmp_path, mode), "rounds": 60}
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        given = ["--listen", "127.0.0.1:0", "--run-dir", str(run_dir), "--log-format", "json", *sets]
        few_files = ["tests.attacks.few_files", str(_FILES), *given]
        leader = cluster.program("leader", few_files, faults="stop@leader.selecting:2")
        address = str(leader.event("RunStarted")["address"])
        crew = [
            cluster.join(address, name, *noise(name))
            if mode == "secure"
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


@pytest.mark.parametrize("mode", ["plain", "secure"])
def test_connections_without_a_call_go_when_others_come(tmp_path: Path, mode: str) -> None:
    async def scenario(cluster: Cluster) -> None:
        held = Fleet(tmp_path / "trust").admit("eve") if mode == "secure" else None
        victim = Victim(cluster.address, held)
        storm = asyncio.create_task(again(floods.idle_connection, at_once=60, pause_s=1.0)(victim))
        await asyncio.sleep(0.5)  # all places are taken
        async with asyncio.timeout(TIMEOUT_S):
            for name in "ab":
                join(cluster, name)
            await cluster.finished()
        storm.cancel()
        await asyncio.wait([storm])

    play(scenario, {**_settings(tmp_path, mode), "limits.connections": 40})
