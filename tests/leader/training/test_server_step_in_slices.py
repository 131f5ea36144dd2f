from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import ByExamples
from leader.optimizers.base import Step
from leader.optimizers.sgd import Sgd
from leader.state import RunState
from leader.training.server_step import ServerStep, step_at_once
from model.layout import Layout
from model.piece_files import PieceFiles
from utils.vector import Recycled
from utils.wire.payload import Payload, parse_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(70, 40), nn.BatchNorm1d(40), nn.Linear(40, 30)))
FILES = PieceFiles(LAYOUT, 1, None)
SPLIT = LAYOUT.parameter_count


def vector(seed: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).normal(size=LAYOUT.total).astype(np.float32)


def state_of(optimizer: Sgd) -> RunState:
    kept = {name: vector(5)[:SPLIT] for name in optimizer.init(SPLIT)}
    return RunState("run", 0, 3, 7, vector(1), kept)


def filled() -> Aggregate:
    aggregate = Aggregate(LAYOUT, Scale.of(1024.0, 100), ByExamples(), FILES.pieces)
    for piece in FILES.pieces:
        values = vector(2)[piece.start : piece.stop]
        file = FILES.plain(piece.number, values, {})
        payload = Payload(parse_header(file.header), file.body, file.crc32)
        aggregate.fold(Contribution("part", 3, payload, 0.5), piece.number, values)
    return aggregate


def sliced_step(before: RunState, optimizer: Sgd, step: Step) -> ServerStep:
    return ServerStep(before, LAYOUT, optimizer, step, FILES.pieces, Recycled().empty)


@pytest.mark.parametrize(
    "optimizer", [Sgd(), Sgd(0.9, 5e-4, nesterov=True), Sgd(0.9), Sgd(0.0, 0.1)], ids=str
)
@given(random=st.randoms(use_true_random=False))
def test_slices_in_any_order_make_the_step_that_is_made_at_once(optimizer: Sgd, random: Random) -> None:
    before, step = state_of(optimizer), Step(0.1)
    expected, result = step_at_once(before, LAYOUT, optimizer, filled(), step, everybody=3)
    sliced, aggregate = sliced_step(before, optimizer, step), filled()
    numbers = [piece.number for piece in FILES.pieces]
    random.shuffle(numbers)
    for number in numbers:
        assert not sliced.made(number)
        values = sliced.apply(number, aggregate.mean(number))
        piece = FILES.pieces[number]
        assert values.tobytes() == expected.vector[piece.start : piece.stop].tobytes()
    told = aggregate.finish()
    after = sliced.finish(told)
    assert after.vector.tobytes() == expected.vector.tobytes()
    assert {n: v.tobytes() for n, v in after.optimizer.items()} == {
        n: v.tobytes() for n, v in expected.optimizer.items()
    }
    assert (after.version, after.exchanges) == (expected.version, 4)
    assert (told.loss, told.examples, told.digest) == (result.loss, result.examples, result.digest)
    assert after.public is None


def test_a_restart_forgets_slices() -> None:
    before = state_of(Sgd(0.9))
    sliced, aggregate = sliced_step(before, Sgd(0.9), Step(0.1)), filled()
    sliced.apply(0, np.ones(FILES.pieces[0].stop, np.float32))
    sliced.restart()
    assert not sliced.made(0)
    for piece in FILES.pieces:
        sliced.apply(piece.number, aggregate.mean(piece.number))
    expected, _ = step_at_once(before, LAYOUT, Sgd(0.9), filled(), Step(0.1), everybody=3)
    assert sliced.finish(aggregate.finish()).vector.tobytes() == expected.vector.tobytes()


def test_what_learners_have_may_differ_from_the_model() -> None:
    sliced, aggregate = (
        sliced_step(state_of(Sgd()), Sgd(), Step(0.1)),
        filled(),
    )
    for piece in FILES.pieces:
        sliced.apply(piece.number, aggregate.mean(piece.number))
        sliced.publish(piece.number, np.full(piece.stop - piece.start, piece.number, np.float32))
    after = sliced.finish(aggregate.finish())
    assert after.public is not None
    for piece in FILES.pieces:
        assert set(after.public[piece.start : piece.stop].tolist()) == {float(piece.number)}
    assert after.vector.tobytes() != after.public.tobytes()
