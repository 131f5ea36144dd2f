from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from learner.wire.incoming_weights import Arriving
from model.layout import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils.codecs import Moment, make_codec
from utils.codecs.files import File
from utils.errors import ChecksumError, PayloadError
from utils.vector import Vector

LAYOUT = Layout.of(nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30)))
FILES = PieceFiles(LAYOUT, 1, make_codec("int8"))
RANDOM = np.random.Generator(np.random.PCG64(0))
BASE, TARGET = (RANDOM.normal(size=LAYOUT.total).astype(np.float32) for _ in range(2))


def announced(number: int, file: File, **wrong: int) -> leader_pb2.Piece:
    said = {"number": number, "total_bytes": file.total_bytes, "crc32": file.crc32}
    return leader_pb2.Piece(**{**said, **wrong})


def send(arriving: Arriving, number: int, file: File, base: Vector | None = None) -> None:
    arriving.begin(announced(number, file), base)
    whole = memoryview(file.header + file.body.tobytes())
    for start in range(0, len(whole), 700):
        arriving.feed(whole[start : start + 700])


def plain(number: int) -> File:
    piece = FILES.pieces[number]
    return FILES.plain(number, TARGET[piece.start : piece.stop], {})


def test_pieces_in_any_order_make_the_vector() -> None:
    arriving = Arriving(FILES)
    for number in (2, 0, 4, 3):
        send(arriving, number, plain(number))
    assert arriving.take() is None  # one is missing
    for number in (4, 3, 1, 0, 2):
        send(arriving, number, plain(number))
    vector = arriving.take()
    assert vector is not None
    assert vector.tobytes() == TARGET.tobytes()
    assert arriving.take() is None


def test_a_change_is_added_to_the_base() -> None:
    arriving = Arriving(FILES)
    expected = TARGET.copy()
    for piece in FILES.pieces:
        if not FILES.encoded(piece.number):
            send(arriving, piece.number, plain(piece.number))
            continue
        change = TARGET[piece.start : piece.stop] - BASE[piece.start : piece.stop]
        file, _ = FILES.encode(piece.number, change, {}, Moment(), {})
        send(arriving, piece.number, file, BASE)
    vector = arriving.take()
    assert vector is not None
    assert vector == pytest.approx(expected, abs=0.05)
    assert vector.tobytes() != expected.tobytes()


def test_a_change_needs_a_base() -> None:
    file, _ = FILES.encode(0, TARGET[: FILES.pieces[0].stop], {}, Moment(), {})
    with pytest.raises(PayloadError, match="no update of this learner is open"):
        send(Arriving(FILES), 0, file)


def test_what_came_before_a_step_began_anew_is_forgotten() -> None:
    arriving = Arriving(FILES)
    for number in range(4):
        send(arriving, number, plain(number))
    arriving.clear()
    send(arriving, 4, plain(4))
    assert arriving.take() is None


def test_bytes_that_are_not_a_piece_are_refused() -> None:
    arriving, file = Arriving(FILES), plain(0)
    with pytest.raises(PayloadError, match="belong to no piece"):
        arriving.feed(memoryview(b"abc"))
    with pytest.raises(PayloadError, match="piece 9 of 5"):
        arriving.begin(announced(9, file), None)
    arriving.begin(announced(0, file, total_bytes=file.total_bytes + 1), None)
    with pytest.raises(PayloadError, match="not as large as announced"):
        arriving.feed(memoryview(file.header))
    arriving = Arriving(FILES)
    arriving.begin(announced(0, file, crc32=file.crc32 ^ 1), None)
    with pytest.raises(ChecksumError):
        arriving.feed(memoryview(file.header + file.body.tobytes()))
    arriving = Arriving(FILES)
    arriving.begin(announced(0, file), None)
    with pytest.raises(PayloadError, match="in the middle of another"):
        arriving.begin(announced(1, file), None)


def test_weights_that_are_still_held_are_not_written_over() -> None:
    arriving, taken = Arriving(FILES), []
    for _ in range(5):
        for number in range(len(FILES.pieces)):
            send(arriving, number, plain(number))
        vector = arriving.take()
        assert vector is not None
        assert vector.tolist() == TARGET.tolist()
        taken.append(vector)
        vector[:] = len(taken)
    assert [vector.max() for vector in taken] == [1, 2, 3, 4, 5]
