from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from grpc import aio

from benchmarks import small_model
from benchmarks.endurance.handshakes import Opened, open_all
from benchmarks.endurance.trust import (
    CONNECTION,
    CPU_DOWN,
    CPU_UP,
    IDLE,
    QUICK,
    RESNET18,
    SESSION,
    START,
    Flood,
    Samples,
    flood_of,
    result,
)
from benchmarks.fleet import run_fleet
from benchmarks.spread import Spread
from benchmarks.trust_folder import TrustFolder, choose_way
from tests.tools.grpc_server import started


def one(value: float) -> Spread:
    return Spread.of([value])


def test_each_promise_is_about_what_trust_adds() -> None:
    samples = Samples()
    values = {
        RESNET18: (300.0, 390.0),
        IDLE: (20.0, 28.0),
        CPU_DOWN: (2.0, 2.6),
        CPU_UP: (2.0, 2.8),
        SESSION: (45.0, 105.0),
        START: (3.0, 3.5),
        CONNECTION: (1.0, 2.0),
    }
    for name, pair in values.items():
        for secure, value in enumerate(pair):
            samples.add(name, "unit", bool(secure), value)
    found = result(samples.compared(), Flood(one(0.2), one(0.5), 0.9, Opened(10, 0.0, 1.0, 0.1)), QUICK)
    assert [(target.value, target.met) for target in found.targets] == [
        (pytest.approx(1.3), True),
        (pytest.approx(1.3), True),
        (pytest.approx(1.4), False),
        (pytest.approx(1.4), False),
        (60.0, True),
        (0.5, True),
        (2.0, True),
        (2.5, False),
    ]
    assert found.ratios["new connection: secure to plain"] == 2.0
    medians = {figure.name: figure.spread.median for figure in found.figures}
    assert medians["idle round, secure"] == 28.0
    assert medians["connections of the flood"] == 10.0


def test_a_median_is_taken_over_the_turns() -> None:
    samples = Samples()
    for plain, secure in ((1.0, 5.0), (2.0, 6.0), (9.0, 6.0)):
        samples.add("round", "s", True, secure)
        samples.add("round", "s", False, plain)
    compared = samples.compared()["round"]
    assert (compared.ratio, compared.more) == (3.0, 4.0)


def test_rounds_that_reach_into_the_flood_count_on_neither_side() -> None:
    commits = [0.0, 1.0, 2.5, 4.0, 6.0, 9.0, 10.0]
    flood = flood_of(commits, Opened(100, began=2.0, ended=8.0, cpu_s=0.2))
    assert (flood.calm.median, flood.calm.count) == (1.0, 2)
    assert (flood.flooded.median, flood.flooded.count, flood.longest) == (1.75, 2, 2.0)
    assert flood.opened.cpu_ms == pytest.approx(2.0)


@pytest.mark.parametrize("secure", [False, True])
def test_connections_are_opened_anew_each_time(secure: bool, tmp_path: Path) -> None:
    way = choose_way(tmp_path if secure else None)

    async def flood() -> Opened:
        tls = way.authority.server_credentials().for_server() if isinstance(way, TrustFolder) else None
        async with started(aio.server(), tls) as address:
            return await open_all(address, 20, way.admit("caller"))

    opened = asyncio.run(flood())
    assert opened.connections == 20
    assert opened.per_s > 20


def test_learners_of_a_secure_fleet_join_and_train() -> None:
    run = run_fleet(small_model.NAME, learners=2, rounds=3, warmup=1, secure=True)
    assert run.round_s.count == 3 - 1
    assert run.checkpoint_bytes > 4 * small_model.PARAMETERS
