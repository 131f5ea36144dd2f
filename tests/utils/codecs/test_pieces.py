"""Where the tensors of a model are cut."""

from __future__ import annotations

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from utils.codecs.pieces import cut

some_shapes = st.lists(st.lists(st.integers(0, 6), max_size=3).map(tuple), min_size=1, max_size=8)


@given(some_shapes, st.integers(1, 200), st.booleans())
def test_pieces_lie_side_by_side_and_none_but_the_first_has_less_than_the_least(
    shapes: list[tuple[int, ...]], least_bytes: int, cut_tensors: bool
) -> None:
    pieces = cut(shapes, least_bytes, cut_tensors=cut_tensors)
    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    assert [pieces[0].start, pieces[-1].stop] == [0, sum(map(math.prod, shapes))]
    assert all(before.stop == after.start for before, after in pairwise(pieces))
    assert all(4 * (piece.stop - piece.start) >= least_bytes for piece in pieces[1:])
    held = [0] * len(shapes)
    for piece in pieces:
        assert piece.stop - piece.start == sum(map(math.prod, piece.shapes))
        assert list(piece.tensors) == sorted(piece.tensors)
        for tensor, shape in zip(piece.tensors, piece.shapes, strict=True):
            held[tensor] += math.prod(shape)
            assert shape == shapes[tensor] or (cut_tensors and 4 * math.prod(shapes[tensor]) > least_bytes)
    assert held == list(map(math.prod, shapes))


@given(some_shapes, st.integers(1, 200))
def test_no_piece_of_cut_tensors_has_more_than_twice_the_least(
    shapes: list[tuple[int, ...]], least_bytes: int
) -> None:
    pieces = cut(shapes, least_bytes, cut_tensors=True)
    assert all(piece.stop - piece.start < 2 * (least_bytes + 3) / 4 for piece in pieces)


def test_a_large_tensor_ends_the_piece_behind_it_and_goes_on_in_others() -> None:
    pieces = cut([(2,), (5, 5), (3,)], 40, cut_tensors=True)
    assert [piece.shapes for piece in pieces] == [((2,), (8,)), ((10,),), ((7,), (3,))]
    assert [piece.tensors for piece in pieces] == [(0, 1), (1,), (1, 2)]
