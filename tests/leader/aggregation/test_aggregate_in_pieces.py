from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from leader.aggregation.aggregate import Aggregate, Folded
from leader.aggregation.base import Contribution
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import ByExamples, Uniform, Weighting
from model.layout import Layout
from model.piece_files import PieceFiles
from utils.codecs.files import File
from utils.errors import LimitError, ValueRangeError
from utils.vector import Vector
from utils.wire.payload import Payload, encode_header, parse_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)))
FILES = PieceFiles(LAYOUT, 1, None)  # a piece for each parameter, and one for the buffers
PIECES = FILES.pieces
SCALE = Scale.of(1024.0, 1000)


def values_of(part: int) -> Vector:
    return np.random.Generator(np.random.PCG64(part)).normal(size=LAYOUT.total).astype(np.float32)


def payload(file: File) -> Payload:
    return Payload(parse_header(file.header), file.body, file.crc32)


def whole(part: int, weight: int) -> Contribution:
    header = encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries)
    file = File(header, values_of(part).view(np.uint8))
    return Contribution(f"part-{part}", weight, payload(file), loss=0.25 * part)


def fold(aggregate: Aggregate, part: int, weight: int, number: int, values: Vector | None = None) -> Folded:
    piece = PIECES[number]
    values = values_of(part)[piece.start : piece.stop] if values is None else values
    sent = payload(FILES.plain(number, values, {}))
    return aggregate.fold(Contribution(f"part-{part}", weight, sent, 0.25 * part), number, values)


def sliced(weighting: Weighting | None = None) -> Aggregate:
    return Aggregate(LAYOUT, SCALE, weighting or ByExamples(), PIECES)


@given(
    st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=5),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_pieces_in_any_order_beside_whole_updates_make_the_bits_of_whole_updates(
    parts: list[tuple[int, bool]], uniform: bool, random: Random
) -> None:
    weighting: Weighting = Uniform() if uniform else ByExamples()
    expected = Aggregate(LAYOUT, SCALE, weighting)
    for part, (weight, _) in enumerate(parts):
        expected.add(whole(part, weight))
    aggregate = sliced(weighting)
    arrivals: list[tuple[int, int | None]] = []
    for part, (_, in_pieces) in enumerate(parts):
        arrivals += [(part, piece.number) for piece in PIECES] if in_pieces else [(part, None)]
    random.shuffle(arrivals)
    for part, number in arrivals:
        if number is None:
            aggregate.add(whole(part, parts[part][0]))
        else:
            assert fold(aggregate, part, parts[part][0], number) is Folded.ADDED
    ours, theirs = aggregate.finish(), expected.finish()
    assert ours.mean.tobytes() == theirs.mean.tobytes()
    assert (ours.examples, ours.loss) == (theirs.examples, theirs.loss)


def test_a_slice_is_ready_when_all_parts_have_its_piece() -> None:
    aggregate = sliced()
    aggregate.add(whole(0, 2))
    assert aggregate.ready(1, ["part-0"])
    assert not aggregate.ready(1, ["part-0", "part-1"])
    fold(aggregate, 1, 3, 1)
    assert aggregate.ready(1, ["part-0", "part-1"])
    assert not aggregate.ready(0, ["part-0", "part-1"])
    piece = PIECES[1]
    mean = (2 * values_of(0).astype(float) + 3 * values_of(1)) / 5
    assert aggregate.mean(1) == pytest.approx(mean[piece.start : piece.stop], abs=1e-6)


def test_a_piece_that_comes_twice_counts_once() -> None:
    aggregate = sliced()
    assert fold(aggregate, 1, 3, 0) is Folded.ADDED
    before = aggregate.mean(0).tolist()
    assert fold(aggregate, 1, 3, 0) is Folded.KNOWN
    assert aggregate.mean(0).tolist() == before


def test_a_piece_that_comes_with_other_bits_or_another_weight_is_not_added() -> None:
    aggregate = sliced()
    fold(aggregate, 1, 3, 0)
    before = aggregate.mean(0).tolist()
    other = values_of(2)[PIECES[0].start : PIECES[0].stop]
    assert fold(aggregate, 1, 3, 0, other) is Folded.DIFFERS
    assert fold(aggregate, 1, 4, 1) is Folded.DIFFERS
    assert aggregate.mean(0).tolist() == before
    assert not aggregate.ready(1, ["part-1"])


def test_a_restart_leaves_what_came_whole_and_nothing_else() -> None:
    aggregate, alone = sliced(), sliced()
    for each in (aggregate, alone):
        each.add(whole(0, 2))
    fold(aggregate, 1, 3, 0)
    assert aggregate.partial == {"part-1"}
    aggregate.restart()
    assert aggregate.partial == frozenset()
    assert aggregate.whole == {"part-0"}
    ours, theirs = aggregate.finish(), alone.finish()
    assert (ours.mean.tobytes(), ours.digest) == (theirs.mean.tobytes(), theirs.digest)


def test_a_part_is_complete_with_its_last_piece() -> None:
    aggregate = sliced()
    for piece in PIECES:
        assert not aggregate.complete("part-1")
        fold(aggregate, 1, 3, piece.number)
    assert aggregate.complete("part-1")
    assert aggregate.partial == frozenset()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1025.0])
def test_a_piece_out_of_range_leaves_nothing_behind(value: float) -> None:
    aggregate = sliced()
    bad = values_of(1)[PIECES[0].start : PIECES[0].stop].copy()
    bad[-1] = value
    with pytest.raises(ValueRangeError, match="in the update"):
        fold(aggregate, 1, 3, 0, bad)
    assert aggregate.partial == frozenset()
    assert aggregate.mean(0).tolist() == [0.0] * bad.size
    with pytest.raises(LimitError):
        fold(aggregate, 1, 10_000, 0)


def test_the_digest_tells_other_pieces_and_not_their_order() -> None:
    def digest(numbers: list[int], first: Vector | None = None) -> str:
        aggregate = sliced()
        for number in numbers:
            fold(aggregate, 1, 3, number, first if number == 0 else None)
        return aggregate.finish().digest

    numbers = [piece.number for piece in PIECES]
    other = values_of(2)[PIECES[0].start : PIECES[0].stop]
    assert digest(numbers) == digest(numbers[::-1])
    assert digest(numbers) != digest(numbers, other)


def test_an_update_that_came_whole_after_some_of_its_pieces_needs_a_restart() -> None:
    aggregate = sliced()
    fold(aggregate, 1, 3, 0)
    aggregate.add(whole(1, 3))
    aggregate.restart()
    expected = Aggregate(LAYOUT, SCALE, ByExamples())
    expected.add(whole(1, 3))
    assert aggregate.finish().mean.tobytes() == expected.finish().mean.tobytes()
    with pytest.raises(LimitError):
        aggregate.add(replace(whole(2, 3), weight=10_000))
    assert aggregate.whole == {"part-1"}
