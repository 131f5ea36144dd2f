"""The kinds of runs that are attacked: plain ones, insecure ones, which are plain beyond loopback, and secure ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scripts.cluster import Cluster
from tests.attacks.siege import INSECURE, PLAIN, SECURE, Victim
from tests.clusters import TINY, Scenario, Settings, play
from tests.leader.trust.fleet import Fleet
from utils.trust.credentials import Credentials

each_kind = pytest.mark.parametrize("kind", [PLAIN, INSECURE, SECURE])
with_and_without_trust = pytest.mark.parametrize("kind", [PLAIN, SECURE])


def settings_of(kind: str, folder: Path) -> Settings:
    """What makes a run one of this kind; a secure one has its CA in `folder`."""
    if kind == SECURE:
        return {"trust.mode": "on", "trust.dir": folder / "trust"}
    return {"trust.mode": "off", "listen": "0.0.0.0:0"} if kind == INSECURE else {}


def held_by(name: str, kind: str, folder: Path) -> Credentials | None:
    """What somebody was enrolled with in a run of this kind."""
    return Fleet(folder / "trust").admit(name) if kind == SECURE else None


def victim_of(cluster: Cluster, kind: str, folder: Path) -> Victim:
    """The leader, and what an attacker was enrolled with."""
    return Victim(cluster.address, held_by("eve", kind, folder))


def play_kind(kind: str, folder: Path, scenario: Scenario, settings: Settings = TINY, **more: Any) -> Cluster:
    """Play with a run of this kind."""

    async def here(cluster: Cluster) -> None:
        cluster.address = cluster.address.replace("0.0.0.0", "127.0.0.1")
        await scenario(cluster)

    return play(here, {**settings, **settings_of(kind, folder)}, **more)
