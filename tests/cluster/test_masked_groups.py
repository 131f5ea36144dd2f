"""Masked asynchronous rounds over real gRPC: groups whose sums fill buffers, and what comes of those that fail."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from grpc.aio import AioRpcError

from leader.cli import parse
from leader.config.rules.dp import releases_a_part
from leader.dp.accountant import Accountant
from leader.dp.ledger import Ledger, Release
from leader.events import LearnerOverdue, RoundCommitted, UpdateAccepted
from leader.storage.checkpoint import load_newest
from leader.storage.run_folder import RunFolder
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.cluster.test_distributed_noise import SHARED, lines
from tests.cluster.test_masked import FOUR, Mute, masked_file
from tests.cluster.test_privacy import begun
from tests.clusters import TIMEOUT_S, Settings, join, leaves, play, train
from tests.strangers import Stranger
from tests.tools.clock import TurnedClock
from utils.errors import LateUpdateError
from utils.secagg.roster import VERSION

UNIFORM: Settings = {**FOUR, "aggregate.weighting": "uniform"}
GROUP: Settings = {"secagg.mode": "masked", "buffer.size": 4}
REVEAL_S = 60.0


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_where_all_are_one_group_the_weights_are_those_of_synchronous_rounds_without_masks(
    weighting: str,
) -> None:
    plain = play(train, {**FOUR, "aggregate.weighting": weighting})
    grouped = play(train, {**FOUR, **GROUP, "secagg.bits": 64, "aggregate.weighting": weighting})
    assert np.abs(grouped.vector - plain.vector).max() < 1e-6
    told = [[(e.learners, e.examples) for e in run.seen(RoundCommitted)] for run in (plain, grouped)]
    assert told[0] == told[1]
    assert [e.loss for e in grouped.seen(RoundCommitted)] == pytest.approx(
        [e.loss for e in plain.seen(RoundCommitted)], abs=1e-6
    )


def test_two_groups_of_a_buffer_count_together_and_each_learner_pays_for_its_own(tmp_path: Path) -> None:
    settings = {**SHARED, "learners": 8, "secagg.bits": 16, "buffer.size": 8, "buffer.group": 4}
    run = play(train, {**settings, "run_dir": tmp_path / "run"})
    assert [event.examples for event in run.seen(RoundCommitted)] == [8 * 24] * 3
    assert len(run.seen(UpdateAccepted)) == 8 * 3
    sets = {entry["set"]: entry["parts"] for entry in lines(tmp_path / "run") if entry["kind"] == "parts"}
    paid = [sets[entry["set"]] for entry in lines(tmp_path / "run") if entry["kind"] == "release"]
    assert [len(parts) for parts in paid] == [4] * 6
    privacy = run.summary["privacy"]
    assert privacy["mode"] == "distributed"
    assert 0 < privacy["spent_max"] <= privacy["epsilon"]


def test_those_that_are_left_go_on_in_a_smaller_group() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "abc":
            join(cluster, name)
        gone = join(cluster, "d")
        await cluster.committed(1)
        await gone.kill()
        leaves(cluster, "d")
        await cluster.finished()

    more = {"rounds": 4, "buffer.size": 6, "buffer.group": 4, "cohort.quorum": 0.75}
    run = play(scenario, {**UNIFORM, **GROUP, **more})
    assert [one.learners for one in run.seen(RoundCommitted)][-1] == 3


NOT_AGREED = "the masks of this round were agreed on without this update"


def test_who_has_no_masks_of_its_group_is_in_no_sum_though_it_knows_the_session() -> None:
    async def scenario(cluster: Cluster) -> None:
        async with Stranger(cluster.address) as eve:
            own = leader_pb2.OwnData(examples=24, classes=2)
            await eve.register("eve", own_data=own, secagg=VERSION)
            await eve.open_session()
            for name in "abc":
                join(cluster, name)
            order, opened = await eve.work(), await eve.told("mask")
            eve.say(mask=leader_pb2.MaskUp(session=opened.session, refused=leader_pb2.MaskRefused()))
            with pytest.raises(AioRpcError, match=NOT_AGREED):
                await eve.send(masked_file(cluster), order.work_id, session=opened.session)
        leaves(cluster, "eve")
        await cluster.finished()

    run = play(scenario, {**UNIFORM, **GROUP, "rounds": 1})
    assert run.seen(RoundCommitted)[0].learners >= 3


class Misled(Worker):
    """Sends its first update as one of another group's session, and then as what it is."""

    refused: ClassVar[list[str]]

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        if not Misled.refused:
            own, held.said.session = held.said.session, bytes(16)
            try:
                await super()._send(to, held, resume=resume)
            except LateUpdateError as error:
                Misled.refused.append(str(error))
            held.said.session = own
        await super()._send(to, held, resume=resume)


def test_an_update_of_another_groups_session_is_in_no_sum() -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "abcd":
            join(cluster, name, worker=Misled if name == "a" else Worker)
        await cluster.finished()

    Misled.refused = []
    run = play(scenario, {**UNIFORM, **GROUP, "rounds": 1})
    assert [message.startswith(NOT_AGREED) for message in Misled.refused] == [True]
    assert run.seen(RoundCommitted)[0].learners == 4


class MuteOnce(Mute):
    """Lets nobody know what takes the mask off its first update."""

    def _hear(self, message: leader_pb2.MaskDown) -> leader_pb2.MaskUp | None:
        order = self.masks._order
        return super()._hear(message) if order is not None and not order.step else self._heard(message)


def test_a_group_whose_sum_nobody_unmasks_has_paid_and_gets_other_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, clock: TurnedClock
) -> None:
    async def scenario(cluster: Cluster) -> None:
        Mute.asked = asyncio.Event()
        for name in "abcd":
            join(cluster, name, worker=MuteOnce if name < "c" else Worker)
        async with asyncio.timeout(TIMEOUT_S):
            await Mute.asked.wait()
        clock.turn(REVEAL_S)
        await cluster.finished()

    settings = {**SHARED, **GROUP, "secagg.reveal_s": REVEAL_S, "rounds": 1, "run_dir": tmp_path / "run"}
    with caplog.at_level(logging.WARNING, "leader"):
        run = play(scenario, settings)
    given_up = r"round 1: a group is given other work: [0-2] learners revealed shares, 3 are needed"
    assert re.search(given_up, caplog.text)
    assert run.seen(RoundCommitted)[0].learners == 4
    assert len(run.seen(UpdateAccepted)) == 4
    assert [entry["kind"] for entry in lines(tmp_path / "run")].count("release") == 2
    assert not list((tmp_path / "run").glob("pending-sum-*"))


def test_those_that_have_spent_all_amid_a_round_are_waited_for_no_more(tmp_path: Path) -> None:
    """Two of five can pay for one more sum; after it the others are too few for a group as large as planned."""
    settings = {**SHARED, "learners": 5, "rounds": 1, "buffer.size": 7, "buffer.group": 4}
    folder = begun(tmp_path / "run", settings)
    config = parse(["--resume", str(folder)], {}).config
    multiplier, needed = config.dp.noise(releases_a_part(config)), releases_a_part(config)
    state = load_newest(RunFolder(folder).checkpoints, lambda state: None)
    account = Accountant(config.dp.epsilon, config.dp.delta)
    book = Ledger(folder / "privacy.jsonl", account, state.run_id, config.dp.sampling)
    for number in range(needed - 1):
        book.charge(Release(0, f"{number:02x}", "distributed", multiplier, 1.0, ["own-a", "own-c"]))

    async def scenario(cluster: Cluster) -> None:
        await cluster.leader.kill()
        cluster.run_dir = folder
        await cluster.resume()
        for name in "abcde":
            join(cluster, name)
        await cluster.finished()

    run = play(scenario, settings)
    sets = {entry["set"]: entry["parts"] for entry in lines(folder) if entry["kind"] == "parts"}
    paid = [sets[entry["set"]] for entry in lines(folder) if entry["kind"] == "release"][needed - 1 :]
    assert paid == [["own-a", "own-c", "own-d", "own-e"], ["own-b", "own-d", "own-e"]]
    assert not run.seen(LearnerOverdue)
