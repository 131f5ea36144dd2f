"""Masked rounds over real gRPC: the same weights as without masks, and nothing else that the leader is told."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from leader.events import FederatedEvaluated, LearnerLeft, RoundCommitted, RunFinished, UpdateAccepted
from leader.secagg.masked_sum import sizes_of
from leader.storage.checkpoint import load_newest
from learner.wire.connection import Endpoint
from learner.wire.masked_update import MaskedUpdate
from learner.wire.whole_update import HeldUpdate, WholeUpdate
from learner.work.worker import Worker
from protos import leader_pb2
from scripts.cluster import Cluster
from tests.clusters import TINY, Settings, join, leaves, play, train
from tests.strangers import Stranger
from utils.codecs.files import File
from utils.errors import PayloadError, TooFewLearnersError
from utils.secagg.roster import VERSION
from utils.secagg.update import VALUES, WIDE

FOUR: Settings = {**TINY, "learners": 4}
MASKED: Settings = {**FOUR, "secagg.mode": "masked"}
LONG_S = 600.0  # longer than a test may take
SCORED: Settings = {"rounds": 3, "evaluation.holdout": 0.25, "evaluation.federated_every": 2}


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
def test_with_64_bits_the_weights_are_those_of_the_run_without_masks(weighting: str) -> None:
    plain = play(train, {**FOUR, "aggregate.weighting": weighting})
    masked = play(train, {**MASKED, "secagg.bits": 64, "aggregate.weighting": weighting})
    assert masked.model_sha256 == plain.model_sha256
    told = [[(e.loss, e.examples) for e in run.seen(RoundCommitted)] for run in (plain, masked)]
    assert np.allclose(told[0], told[1], atol=1e-6)
    assert all(math.isnan(e.loss) for e in masked.seen(UpdateAccepted))  # of nobody's alone


def test_with_32_bits_they_are_as_near_as_a_step_of_the_ring() -> None:
    plain, masked = play(train, FOUR), play(train, MASKED)
    assert masked.model_sha256 != plain.model_sha256
    assert np.abs(masked.vector - plain.vector).max() < 1e-5


def test_with_16_bits_they_follow_those_of_the_plain_run() -> None:
    """The first round has levels of 0.001; the range then comes to fit, and what was lost before is made up for."""
    settings = {"rounds": 6, "aggregate.weighting": "uniform"}
    plain = play(train, {**FOUR, **settings})
    coarse = play(train, {**MASKED, **settings, "secagg.bits": 16})
    assert 0 < np.abs(coarse.vector - plain.vector).max() < 8 / 8191
    assert coarse.app.coordinator.state.masks_range < 1


def test_scores_come_as_sums_of_which_the_mean_is_that_of_the_plain_run() -> None:
    lines: list[dict[str, Any]] = []

    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        lines[:] = cluster.metrics

    scored = {**SCORED, "evaluation.holdout": 0.4, "train.local_steps": 0}  # fewer steps than of all examples
    plain = play(train, {**FOUR, **scored})
    masked = play(scenario, {**MASKED, **scored, "secagg.bits": 64, "secagg.metrics": "squared_error"})
    assert masked.model_sha256 == plain.model_sha256
    scores = [{e.round: e.scores for e in run.seen(FederatedEvaluated)} for run in (plain, masked)]
    assert [list(told) for told in scores] == [[0, 2], [0, 2]]
    for round_ in (0, 2):
        one, other = (told[round_] for told in scores)
        assert list(one) == list(other) == ["squared_error"]
        own, summed = one["squared_error"], other["squared_error"]
        assert summed["mean"] == pytest.approx(own["mean"], abs=1e-6)
        assert (summed["learners"], summed["examples"]) == (own["learners"], own["examples"]) == (4, 36)
        assert summed.keys() == {"mean", "learners", "examples"}  # of nobody's alone
    assert lines[1]["federated"] == scores[1][2]


def test_scores_by_other_names_are_told_to_nobody(caplog: pytest.LogCaptureFixture) -> None:
    masked = play(train, {**MASKED, **SCORED})
    assert masked.seen(FederatedEvaluated) == []
    assert "fewer than 3 learners scored anything that secagg.metrics names (accuracy, loss)" in caplog.text


class Liar(Worker):
    """A learner's worker whose update is said to be of less than no examples: under its mask nobody sees that."""

    async def _make(self, order: leader_pb2.WorkOrder, part: str) -> WholeUpdate:
        made = await super()._make(order, part)
        assert isinstance(made, MaskedUpdate)
        made.wide[0] = np.uint64((1 << 64) - 10**6)
        return made


@pytest.mark.parametrize("more", [{}, {"secagg.bits": 64}, {"buffer.size": 4}], ids=["32", "64", "groups"])
def test_a_learner_that_lies_about_its_examples_ends_no_run_and_spoils_no_checkpoint(
    more: Settings, tmp_path: Path
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "abcd":
            join(cluster, name, worker=Liar if name == "d" else Worker)
        await cluster.finished()

    run = play(scenario, {**MASKED, **more, "run_dir": tmp_path / "run"})
    assert [e.examples for e in run.seen(RoundCommitted)] == [4 * 32] * 3
    assert np.isfinite(run.vector).all()
    assert load_newest(tmp_path / "run" / "checkpoints").round == 3


class Mute(Worker):
    """A learner's worker that never lets anybody know what takes its mask off; `asked` is set when it is to."""

    asked: ClassVar[asyncio.Event]

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self._heard = self.masks.heard
        self.masks.heard = self._hear  # type: ignore[method-assign]

    def _hear(self, message: leader_pb2.MaskDown) -> leader_pb2.MaskUp | None:
        if message.HasField("reveal"):
            Mute.asked.set()
            return None
        return self._heard(message)


class Held(Worker):
    """Trains once `go` is set, and its masks are agreed on."""

    go: ClassVar[asyncio.Event]

    async def _make(self, order: leader_pb2.WorkOrder, part: str) -> WholeUpdate:
        await self.masks.ready(order.work_id)
        await Held.go.wait()
        return await super()._make(order, part)


class Sent(Worker):
    """Tells when its first update is in the sum."""

    sent: ClassVar[asyncio.Event]

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        await super()._send(to, held, resume=resume)
        Sent.sent.set()


@pytest.mark.usefixtures("no_grace")
@pytest.mark.parametrize("more", [{}, {"buffer.size": 4}], ids=["rounds", "groups"])
def test_where_too_many_are_started_again_all_are_masked_anew_and_no_deadline_is_waited_for(
    more: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a power cut at two of four: of those that shared secrets two are left, and one in the sum is not."""

    async def scenario(cluster: Cluster) -> None:
        Held.go, Sent.sent = asyncio.Event(), asyncio.Event()
        coordinator = cluster.app.coordinator
        coordinator.workforce.subscribe(coordinator._kind.left)  # type: ignore[arg-type]  # to ask changes nothing
        nodes = {name: join(cluster, name, worker=Held if name > "a" else Sent) for name in "abcd"}
        await asyncio.wait_for(Sent.sent.wait(), 60)
        for name in "ad":
            await nodes[name].kill()
        Sent.sent.clear()
        for name in "ad":
            join(cluster, name, worker=Sent)
        await asyncio.wait_for(Sent.sent.wait(), 60)  # once there are new masks
        assert "2 learners have masks yet, a sum needs 3" in caplog.text
        Held.go.set()
        await cluster.finished()

    with caplog.at_level(logging.WARNING, "leader"):
        run = play(scenario, {**MASKED, "secagg.keys_s": LONG_S, **more})
    plain = play(train, {**FOUR})
    assert np.abs(run.vector - plain.vector).max() < 1e-5  # of the very same work
    assert [e.learners for e in run.seen(RoundCommitted)] == [4] * 3


def test_learners_that_ask_for_larger_sums_end_and_so_does_the_run_which_says_what_to_change() -> None:
    async def scenario(cluster: Cluster) -> None:
        crew = [join(cluster, name) for name in "abcd"]
        for error in await asyncio.gather(*map(cluster.failed, crew)):
            assert str(error) == why
        finished = await cluster.event(RunFinished)
        assert finished.reason.endswith(f" failed: {why}")

    why = (
        "sums of 2 updates are planned, this learner asks for 3 (--least-learners); raise secagg.least at the leader, "
        "or lower that here"
    )
    run = play(scenario, {**MASKED, "secagg.least": 2, "cohort.lease_s": 1})
    assert {event.reason for event in run.seen(LearnerLeft)} == {f"failed: {why}"}


def test_one_that_asks_for_larger_sums_goes_and_the_others_go_on() -> None:
    async def scenario(cluster: Cluster) -> None:
        strict = join(cluster, "a", least_learners=4)
        for name in "bcd":
            join(cluster, name)
        await cluster.failed(strict)
        await cluster.finished()

    run = play(scenario, {**MASKED, "cohort.quorum": 0.75, "secagg.keys_s": 1})
    assert [event.learners for event in run.seen(RoundCommitted)] == [3] * 3


class Unopened(Mute):
    """Seals what opens for nobody."""

    def _hear(self, message: leader_pb2.MaskDown) -> leader_pb2.MaskUp | None:
        said = self._heard(message)
        if said is not None and said.HasField("shares"):
            for share in said.shares.shares:
                share.sealed = bytes(len(share.sealed))
        return said


@pytest.mark.parametrize("more", [{}, {"buffer.size": 4}], ids=["rounds", "groups"])
def test_a_learner_whose_shares_do_not_open_is_left_out_by_itself(
    more: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(cluster: Cluster) -> None:
        for name in "abcd":
            join(cluster, name, worker=Unopened if name == "a" else Worker)
        await cluster.finished()

    run = play(scenario, {**MASKED, "cohort.quorum": 0.75, "secagg.keys_s": LONG_S, **more})
    assert "round 1: a is left out: its shares don't open at the others" in caplog.text
    assert {event.learners for event in run.seen(RoundCommitted)} == {3}


class WrongShares(Mute):
    """Reveals what takes no mask off."""

    def _hear(self, message: leader_pb2.MaskDown) -> leader_pb2.MaskUp | None:
        said = self._heard(message)
        if said is not None and said.HasField("revealed"):
            said.revealed.shares = bytes(len(said.revealed.shares))
        return said


def test_a_learner_that_reveals_wrong_shares_hinders_no_round() -> None:
    """The others' answers come while those of the first are put together."""

    async def scenario(cluster: Cluster) -> None:
        for name in "abcdef":
            join(cluster, name, worker=WrongShares if name == "a" else Worker)
        await cluster.finished()

    run = play(scenario, {**MASKED, "learners": 6})
    assert [e.learners for e in run.seen(RoundCommitted)] == [6] * 3


def masked_file(cluster: Cluster) -> bytes:
    """What could be a masked update of the run's model."""
    values, wide = sizes_of(cluster.app.layout, 32)
    file = File.of({VALUES: np.zeros(values, np.int32), WIDE: np.zeros(wide, np.int64)}, {})
    return file.header + file.body.tobytes()


def test_an_update_counts_only_under_the_masks_of_its_round() -> None:
    """A learner that holds work, and was in no session, sends zeros: nothing that would take masks off the others'."""

    async def scenario(cluster: Cluster) -> None:
        own = leader_pb2.OwnData(examples=24, classes=2)
        async with Stranger(cluster.address) as eve:
            await eve.register("eve", own_data=own, secagg=VERSION)
            await eve.open_session()
            for name in "abc":
                join(cluster, name)
            order, opened = await eve.work(), await eve.told("mask")
            eve.say(mask=leader_pb2.MaskUp(session=opened.session, refused=leader_pb2.MaskRefused()))
            with pytest.raises(AioRpcError, match="agreed on without this update") as refused:
                await eve.send(masked_file(cluster), order.work_id, session=bytes(16))
            assert refused.value.code() is StatusCode.ABORTED
        leaves(cluster, "eve")
        await cluster.finished()

    run = play(scenario, {**MASKED, "rounds": 1, "cohort.quorum": 0.75})
    assert run.seen(RoundCommitted)[0].learners == 3


def test_what_a_learner_says_in_no_session_changes_nothing() -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)

    async def disturbed(cluster: Cluster) -> None:
        own = leader_pb2.OwnData(examples=24, classes=2)
        async with Stranger(cluster.address) as eve:
            await eve.register("eve", own_data=own, secagg=VERSION)
            await eve.open_session()
            eve.say(mask=leader_pb2.MaskUp(session=b"x" * 16, agreed=leader_pb2.Agreed(signature=b"s")))
            eve.say(goodbye=leader_pb2.Goodbye(reason="enough"))
            await eve.ended()
        await train(cluster)

    settings = {**MASKED, "secagg.bits": 64}
    assert play(disturbed, settings).model_sha256 == play(scenario, settings).model_sha256


class Teller(Worker):
    """A learner of another make, which tells its own loss beside its masked update."""

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        held.said.loss = 0.5
        await super()._send(to, held, resume=resume)


def test_an_update_that_tells_of_itself_beside_the_sum_is_refused() -> None:
    async def scenario(cluster: Cluster) -> None:
        teller = join(cluster, "a", worker=Teller)
        for name in "bcd":
            join(cluster, name)
        error = await cluster.failed(teller)
        assert isinstance(error, PayloadError)
        assert (
            str(error) == "a masked update comes without weight, loss and metrics; only their sums are told"
        )
        await cluster.finished()

    play(scenario, {**MASKED, "rounds": 1, "cohort.quorum": 0.75})


def test_a_run_that_is_stopped_waits_for_no_answer_that_unmasks() -> None:
    async def scenario(cluster: Cluster) -> None:
        Mute.asked = asyncio.Event()
        for name in "abcd":
            join(cluster, name, worker=Mute)
        async with asyncio.timeout(20):
            await Mute.asked.wait()
        cluster.app.coordinator.stop("enough")
        await cluster.event(RunFinished, reason="enough")

    play(scenario, {**MASKED, "secagg.reveal_s": LONG_S})


def test_a_sum_that_nobody_unmasks_is_tried_again_with_other_batches_three_times() -> None:
    """Two of four tell nothing: the others' answers are too few, and learners show no fourth update of a round."""

    async def scenario(cluster: Cluster) -> None:
        Mute.asked = asyncio.Event()
        for name in "ab":
            join(cluster, name, worker=Mute)
        for name in "cd":
            join(cluster, name)
        await cluster.until(lambda: len(cluster.seen(UpdateAccepted)) == 8, "no second attempt")
        assert not cluster.seen(RoundCommitted)
        await cluster.resume(secagg__reveal_s=0.3)
        error = await cluster.failed(cluster.leader)
        assert isinstance(error, TooFewLearnersError)
        assert "no learner shows more than 3 updates of a round" in str(error)
        assert len(cluster.seen(UpdateAccepted)) >= 12

    run = play(scenario, {**MASKED, "secagg.reveal_s": 0.3})
    assert not run.seen(RoundCommitted)


def test_a_masked_run_says_what_it_promises(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(cluster: Cluster) -> None:
        await train(cluster)
        assert cluster.summary["privacy"] == {"mode": "masked", "least": 3}

    with caplog.at_level(logging.INFO, "leader"):
        play(scenario, {**MASKED, "rounds": 1})
    assert "updates come masked: the leader sees sums of at least 3 (secagg.mode=masked)" in caplog.text
