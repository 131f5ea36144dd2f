from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from leader.optimizers.base import Step
from leader.optimizers.choose import make_optimizer
from protos import leader_pb2
from tests.leader.gradient_peers import EXAMPLES, LAYOUT, TIMEOUT_S, GradientRun, Peer, gradient_run, numbers
from utils.errors import (
    ChecksumError,
    LimitError,
    PayloadError,
    UnknownLearnerError,
    ValueRangeError,
    WireError,
)
from utils.vector import Vector

SPLIT = LAYOUT.parameter_count
QUORUM = {"cohort": {"quorum": 0.5}}
SHARDS = {"data": {"source": "synthetic", "holder": "leader", "shards": 2}}


def stepped(before: Vector, run: GradientRun, *steps: dict[int, int]) -> Vector:
    """`before` after optimizer steps; each is the mean of made-up gradients, by seed, with their weights."""
    optimizer = make_optimizer(run.config)
    state = optimizer.init(SPLIT)
    for weights in steps:
        total = sum(weights.values())
        mean = sum(weight * numbers(seed).astype(np.float64) for seed, weight in weights.items()) / total
        assert isinstance(mean, np.ndarray)
        state, after = optimizer.apply(state, before[:SPLIT], mean[:SPLIT].astype(np.float32), Step(0.1))
        before = np.concatenate([after, before[SPLIT:] + mean[SPLIT:].astype(np.float32)])
    return before


async def play(peer: Peer, seed: int, examples: int = 4, attempt: int = 0) -> None:
    """Answer the peer's open orders."""
    for order in peer.orders():
        peer.header(order, examples)
        peer.pieces(numbers(seed), attempt=attempt)


async def committed(peer: Peer) -> Vector:
    """Wait for the commit of the only round; its weights."""
    await peer.told("committed")
    return peer.run.coordinator.state.vector


def test_two_steps_of_two_learners() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            await play(a, 1, 3)
            await play(b, 2, 1)
            for peer in (a, b):
                message = await peer.until("stepped")
                assert (message.stepped.round, message.stepped.step) == (1, 0)
                assert len(message.stepped.counted) == 1
                expected = stepped(numbers(0), run, {1: 3, 2: 1})
                assert peer.model == pytest.approx(expected, abs=1e-6)
                assert message.stepped.version == run.coordinator.versions.number
            for peer in (a, b):
                await peer.asked(1, 1)
            await play(a, 3, 4)
            await play(b, 4, 4)
            assert await committed(a) == pytest.approx(
                stepped(numbers(0), run, {1: 3, 2: 1}, {3: 4, 4: 4}), abs=1e-5
            )

    asyncio.run(scenario())


def test_new_weights_of_a_piece_come_down_while_others_are_still_missing() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            for peer, seed in ((a, 1), (b, 2)):
                peer.header(peer.orders()[0])
                peer.piece(1, numbers(seed))
            for peer in (a, b):
                message = await peer.next()
                assert message.piece.number == 1
                piece = run.files.pieces[1]
                expected = stepped(numbers(0), run, {1: 4, 2: 4})[piece.start : piece.stop]
                assert peer.weights[1] == pytest.approx(expected, abs=1e-6)
            assert run.coordinator.state.round == 0
            assert run.coordinator.versions.number == 1  # nothing of the step is visible elsewhere

    asyncio.run(scenario())


async def run_without_c(how: str) -> tuple[Vector, list[str]]:
    """Two learners step; a third is lost before it sends anything, or amid its pieces."""
    async with gradient_run("abc", **QUORUM) as (run, (a, b, c)):
        told = []
        if how == "amid its pieces":
            c.header(c.orders()[0])
            c.piece(1, numbers(9))
            c.piece(0, numbers(9))
            for peer, seed in ((a, 1), (b, 2)):
                peer.header(peer.orders()[0])
                peer.piece(1, numbers(seed))
            assert (await a.next()).piece.number == 1  # so it is in all sums
            await b.next()
        c.leave()
        for peer, seed in ((a, 1), (b, 2)):
            peer.header(peer.orders()[0])
            peer.pieces(numbers(seed))
        if how == "amid its pieces":
            for peer, seed in ((a, 1), (b, 2)):
                redo = (await peer.until("redo")).redo
                told.append(f"redo {redo.round} {redo.step} {redo.attempt}")
                peer.header(peer.orders()[0])
                peer.pieces(numbers(seed), attempt=redo.attempt)
        for peer in (a, b):
            step = (await peer.until("stepped")).stepped
            told.append(f"stepped {step.round} {step.step} {len(step.counted)}")
            assert step.version == run.coordinator.versions.number
        for peer in (a, b):
            await peer.asked(1, 1)
        await play(a, 3)
        await play(b, 4)
        return await committed(a), told


def test_a_learner_lost_amid_its_pieces_leaves_no_trace() -> None:
    async def scenario() -> None:
        before, told_before = await run_without_c("before it sent any")
        amid, told_amid = await run_without_c("amid its pieces")
        assert before.tobytes() == amid.tobytes()
        assert told_before == ["stepped 1 0 1"] * 2
        assert told_amid == ["redo 1 0 1"] * 2 + ["stepped 1 0 1"] * 2

    asyncio.run(scenario())


def test_a_part_that_comes_again_with_other_bits_lets_the_step_begin_anew() -> None:
    async def scenario() -> None:
        async with gradient_run("ab", **SHARDS) as (run, (a, b)):
            theirs, mine = a.orders()[0], b.orders()[0]
            a.header(theirs)
            a.piece(1, numbers(9))
            b.header(mine)
            b.piece(1, numbers(2))
            await b.next()
            a.leave()
            await b.asked(1, 0, theirs.work_id)
            b.header(theirs)
            b.piece(1, numbers(1))
            assert (await b.until("redo")).redo.attempt == 1
            for order, seed in ((theirs, 1), (mine, 2)):
                b.header(order)
                b.pieces(numbers(seed), attempt=1)
            step = (await b.until("stepped")).stepped
            assert sorted(step.counted) == sorted([theirs.work_id, mine.work_id])
            assert b.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


def test_a_part_that_moves_and_comes_with_the_same_bits_goes_on() -> None:
    async def scenario() -> None:
        async with gradient_run("ab", **SHARDS) as (run, (a, b)):
            theirs, mine = a.orders()[0], b.orders()[0]
            a.header(theirs)
            a.piece(1, numbers(1))
            b.header(mine)
            b.pieces(numbers(2))
            await b.next()
            a.leave()
            await b.asked(1, 0, theirs.work_id)
            b.header(theirs)
            b.pieces(numbers(1))
            while not (message := await b.next()).HasField("stepped"):
                assert not message.HasField("redo")
            assert b.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


def test_an_update_that_comes_with_other_bits_each_time_is_refused_in_the_end() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (_, (a, _)):
            order = a.orders()[0]
            for attempt in range(4):
                a.header(order)
                a.piece(1, numbers(1), attempt=attempt)
                a.piece(1, numbers(2), attempt=attempt)
                if attempt < 3:
                    assert (await a.until("redo")).redo.attempt == attempt + 1
            assert a.serving is not None
            with pytest.raises(PayloadError, match="came with other bits each time"):
                await asyncio.wait_for(a.serving, TIMEOUT_S)

    asyncio.run(scenario())


def test_whole_updates_and_pieces_make_one_sum() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            a.header(a.orders()[0])
            a.pieces(numbers(1))
            await b.whole(b.orders()[0], numbers(2), 1)
            await a.until("stepped")
            assert a.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 1}), abs=1e-6)

    asyncio.run(scenario())


def test_a_whole_update_takes_the_place_of_its_own_pieces() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            b.header(b.orders()[0])
            b.piece(1, numbers(9))
            b.piece(0, numbers(9))
            a.header(a.orders()[0])
            a.pieces(numbers(1))
            await a.next()  # b's pieces are in
            await a.next()
            await b.whole(b.orders()[0], numbers(2))
            assert (await a.until("redo")).redo.attempt == 1
            a.header(a.orders()[0])
            a.pieces(numbers(1), attempt=1)
            await a.until("stepped")
            assert a.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


def test_a_new_stream_hears_what_went_down_before_it_was_opened() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (_, (a, b)):
            for peer, seed in ((a, 1), (b, 2)):
                peer.header(peer.orders()[0])
                peer.piece(1, numbers(seed))
            first = (await a.next()).piece
            a.open()
            a.weights.clear()
            a.header(a.orders()[0])
            assert (await a.next()).piece == first
            a.pieces(numbers(1))
            b.pieces(numbers(2))
            step = (await a.until("stepped")).stepped
            assert (step.step, len(step.counted)) == (0, 1)

    asyncio.run(scenario())


def test_pieces_of_an_old_attempt_are_ignored() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            a.header(a.orders()[0])
            a.piece(1, numbers(1))
            a.piece(1, numbers(9))  # other bits: anew
            await a.until("redo")
            a.pieces(numbers(9))  # as if they had been on their way
            a.header(a.orders()[0])
            a.pieces(numbers(1), attempt=1)
            b.header(b.orders()[0])
            assert (await b.next()).redo.attempt == 1
            b.pieces(numbers(2), attempt=1)
            await b.until("stepped")
            assert b.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


def test_an_update_for_an_exchange_that_is_over_is_answered_and_dropped() -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            old = a.orders()[0]
            await play(a, 1)
            await play(b, 2)
            await a.until("stepped")
            for peer in (a, b):
                await peer.asked(1, 1)
            a.header(old)
            a.pieces(numbers(9))
            answer = (await a.next()).stepped
            assert (answer.round, answer.step, answer.version, list(answer.counted)) == (1, 0, 0, [])
            await play(a, 3)
            await play(b, 4)
            expected = stepped(numbers(0), run, {1: 4, 2: 4}, {3: 4, 4: 4})
            assert await committed(a) == pytest.approx(expected, abs=1e-5)

    asyncio.run(scenario())


def test_a_round_that_is_given_up_says_so() -> None:
    async def scenario() -> None:
        short = {"cohort": {"deadline_s": 0.5, "quorum": 1.0}}
        async with gradient_run("ab", **short) as (_, (a, _)):
            await play(a, 1)
            step = (await a.until("stepped")).stepped
            assert (step.round, step.step, step.version, list(step.counted)) == (1, 0, 0, [])

    asyncio.run(scenario())


def test_only_who_was_asked_for_a_part_sends_its_pieces() -> None:
    async def scenario() -> None:
        async with gradient_run("ab", **SHARDS) as (run, (a, b)):
            a.header(b.orders()[0])
            a.pieces(numbers(9))
            await play(a, 1)
            await play(b, 2)
            await b.until("stepped")
            assert b.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


def bad_crc(peer: Peer) -> None:
    peer.piece(1, numbers(1), crc32=7)


def nan(peer: Peer) -> None:
    gradient = numbers(1)
    gradient[SPLIT // 2 :] = np.nan
    peer.piece(1, gradient)


def unknown_piece(peer: Peer) -> None:
    peer.say(leader_pb2.GradientData(piece=leader_pb2.Piece(number=99, total_bytes=5)))


def too_large(peer: Peer) -> None:
    peer.say(leader_pb2.GradientData(piece=leader_pb2.Piece(number=1, total_bytes=1 << 30)))


def other_size(peer: Peer) -> None:
    peer.piece(1, numbers(1), total_bytes=100_000)


def another_piece(peer: Peer) -> None:
    peer.piece(0, numbers(1), number=1)


def chunk_alone(peer: Peer) -> None:
    peer.say(leader_pb2.GradientData(chunk=b"abc"))


def chunk_with_piece(peer: Peer) -> None:
    peer.say(leader_pb2.GradientData(chunk=b"abc", piece=leader_pb2.Piece(number=1, total_bytes=3)))


def cut_short(peer: Peer) -> None:
    peer.say(leader_pb2.GradientData(piece=leader_pb2.Piece(number=1, total_bytes=300)))
    peer.hang_up()


def other_token(peer: Peer) -> None:
    other = next(member for member in peer.run.workforce if member is not peer.member)
    said = leader_pb2.UpdateHeader(token=other.token, work_id=peer.orders()[0].work_id, examples=4)
    peer.say(leader_pb2.GradientData(header=said))


def too_heavy(peer: Peer) -> None:
    peer.header(peer.orders()[0], examples=EXAMPLES + 1)
    peer.piece(1, numbers(1))


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (bad_crc, ChecksumError),
        (nan, ValueRangeError),
        (unknown_piece, PayloadError),
        (too_large, LimitError),
        (other_size, PayloadError),
        (another_piece, PayloadError),
        (chunk_alone, PayloadError),
        (chunk_with_piece, PayloadError),
        (cut_short, PayloadError),
        (other_token, UnknownLearnerError),
        (too_heavy, LimitError),
    ],
)
def test_a_stream_with_a_mistake_is_refused_and_changes_nothing(mistake: Any, kind: type[WireError]) -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (run, (a, b)):
            a.header(a.orders()[0])
            mistake(a)
            assert a.serving is not None
            with pytest.raises(kind) as refused:
                await asyncio.wait_for(a.serving, TIMEOUT_S)
            assert run.streams.refusal(a.member) is refused.value  # for GetUpload, once
            assert run.streams.refusal(a.member) is None
            a.open()
            await play(a, 1)
            await play(b, 2)
            await b.until("stepped")
            assert b.model == pytest.approx(stepped(numbers(0), run, {1: 4, 2: 4}), abs=1e-6)

    asyncio.run(scenario())


@pytest.mark.parametrize("first", [leader_pb2.GradientData(chunk=b"abc"), leader_pb2.GradientData(piece={})])
def test_a_stream_begins_with_a_header(first: leader_pb2.GradientData) -> None:
    async def scenario() -> None:
        async with gradient_run("ab") as (_, (a, _)):
            a.say(first)
            assert a.serving is not None
            with pytest.raises(PayloadError, match="begins with the header"):
                await asyncio.wait_for(a.serving, TIMEOUT_S)

    asyncio.run(scenario())
