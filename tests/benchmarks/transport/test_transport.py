from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from grpc import aio

from benchmarks.transport.fleet import Cost, open_fleet
from benchmarks.transport.loops import LoopLearner, LoopService
from benchmarks.transport.plot import draw_transport
from benchmarks.transport.service import model_bytes
from benchmarks.transport.sockets import SocketLeader, SocketLearner
from benchmarks.transport.transport import COUNTS, TYPICAL, Case, cases, rate, result
from benchmarks.transport.wire import (
    BARE,
    CHECKED,
    DOWN,
    FLOCKSTEP,
    OBJECTS,
    RECEIVED,
    SOCKETS,
    UNARY,
    UP,
    Endpoint,
    Job,
)
from benchmarks.trust_folder import TrustFolder
from tests.tools.grpc_server import started

#: More than one chunk, and not a whole number of them.
VALUES = (np.arange(700_000) / 1024).astype(np.float32)


def job(way: str, direction: str) -> Job:
    return Job(Endpoint(way, False, 0), direction)


def test_a_job_survives_its_line() -> None:
    there = Job(Endpoint(FLOCKSTEP, True, 4711), UP)
    assert Job.read(there.line()) == there


@pytest.mark.parametrize("secured", [False, True])
def test_sockets_move_the_values_both_ways_and_add_those_that_are_to_be_added(
    secured: bool, tmp_path: Path
) -> None:
    trust = TrustFolder(tmp_path)
    with (
        closing(SocketLeader(VALUES, trust.server_files() if secured else None)) as leader,
        closing(SocketLearner(2 * VALUES, leader.port, trust.ca_file if secured else None)) as learner,
    ):
        for way, direction in ((SOCKETS, DOWN), (SOCKETS, UP), (RECEIVED, UP), (SOCKETS, UP)):
            asyncio.run(learner.move(job(way, direction)))
        assert bytes(learner.received) == VALUES.tobytes()
        assert np.array_equal(leader.sum, 4 * VALUES)


def test_every_loop_adds_each_upload_once() -> None:
    async def move() -> LoopService:
        service = LoopService(VALUES)
        server = aio.server(options=[("grpc.max_receive_message_length", 1 << 30)])
        server.add_generic_rpc_handlers((service.handler(),))
        options = [("grpc.max_receive_message_length", 1 << 30)]
        async with started(server) as at, aio.insecure_channel(at, options=options) as channel:
            learner = LoopLearner(VALUES, channel)
            for way in (BARE, OBJECTS, UNARY):
                await learner.move(job(way, DOWN))
                await learner.move(job(way, UP))
            await learner.move(job(CHECKED, UP))
        return service

    service = asyncio.run(move())
    assert np.array_equal(service.sum, 3 * VALUES)
    service.exact.count(1)
    assert np.array_equal(service.exact.mean(), VALUES)


def test_a_learner_moves_a_model_through_the_leaders_own_service(tmp_path: Path) -> None:
    with open_fleet(tmp_path, learners=1) as fleet:
        costs = [
            fleet.measure(FLOCKSTEP, direction, tls, 1) for direction in (DOWN, UP) for tls in (False, True)
        ]
    assert all(cost.seconds > 0 and cost.learner_cpu_s > 0 for cost in costs)


def test_rates_count_all_learners_and_all_processes() -> None:
    gb = model_bytes() / 1e9
    found = rate(Case(FLOCKSTEP, UP, 4), [Cost(0.5, 0.2, 0.3), Cost(0.5, 0.2, 0.3)])
    assert found.gb_s.median == pytest.approx(8 * gb)
    assert found.cpu_s_gb.median == pytest.approx(0.5 / (4 * gb))
    assert found.leader_cpu_s_gb.median == pytest.approx(0.3 / (4 * gb))


def test_the_result_compares_the_ways_at_the_typical_number_of_learners(tmp_path: Path) -> None:
    seconds = {BARE: 0.1, FLOCKSTEP: 0.125, CHECKED: 0.15}
    rates = {
        case: rate(case, [Cost(case.learners * seconds.get(case.way, 0.05), 0.01, 0.02)])
        for case in cases(COUNTS)
    }
    found = result(rates)
    assert found.ratios["Flockstep to bare grpc.aio loop, up"] == pytest.approx(0.8)
    assert found.ratios["Flockstep to bare loop with CRC-32 and exact sum, up, TLS"] == pytest.approx(1.2)
    assert [target.met for target in found.targets] == [False] * 4
    assert found.targets[1].value == pytest.approx(1.25)
    assert found.series["learners"] == list(COUNTS)
    assert {len(column) for column in found.series.values()} == {len(COUNTS)}
    assert sum(figure.unit == "GB/s" for figure in found.figures) == sum(
        case.learners == TYPICAL for case in rates
    )
    draw_transport(found.series, tmp_path / "transport.png")
    assert (tmp_path / "transport.png").stat().st_size > 10_000
