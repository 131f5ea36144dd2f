"""One run's codecs at a learner: how its updates are encoded, and what comes in place of models."""

from __future__ import annotations

from collections.abc import Mapping

from learner.training.algorithms.streaming_diloco import exchanged
from model.flat import Layout
from model.piece_files import WHOLE, PieceFiles
from protos import leader_pb2
from utils.codecs import Codec, Moment, make_codec
from utils.codecs.base import State
from utils.codecs.files import File
from utils.seeds import derive_seed
from utils.vector import Vector

_PREFIX = "codec."  # of a codec's vectors in what a part remembers


class Coding:
    """What a registration has agreed on; raises IncompatibleError for a codec that is not known here."""

    def __init__(self, run: leader_pb2.RunDescription, layout: Layout) -> None:
        self._down = make_codec(run.codec_down) if run.codec_down else None
        self._layout = layout
        self._up = make_codec(run.codec_up).spec if run.codec_up else ""
        self._piece_bytes = run.piece_bytes
        self._zstd = run.zstd

    def changes(self, order: leader_pb2.WorkOrder) -> PieceFiles | None:
        """How what comes in place of the order's model is read; None where models come whole."""
        if order.fragments and not order.HasField("fresh"):
            return None
        if self._down is None and not order.fragments:
            return None
        return PieceFiles(exchanged(order, self._layout, order.fresh), self._piece_bytes, self._down)

    def encode(
        self, order: leader_pb2.WorkOrder, values: Vector, memory: Mapping[str, Vector]
    ) -> tuple[File, State]:
        """The file of an update, values (total,), and what its part is to remember of the encoding.

        Tensors that stay local are not in it. `memory` is what the part remembers now.
        """
        metadata, prefix = {"exchange": order.exchange}, _PREFIX
        layout = exchanged(order, self._layout, order.fragment)
        if order.fragments:
            metadata["fragment"] = str(order.fragment)
            prefix = f"{_PREFIX}{order.fragment}-of-{order.fragments}."
        if not self._up:
            files = PieceFiles(layout, self._piece_bytes)
            return files.plain(WHOLE, layout.gathered(values), metadata), {}
        files = PieceFiles(layout, self._piece_bytes, _codec(self._up, order), zstd=self._zstd)
        kept = {name: vector for name, vector in memory.items() if name.startswith(_PREFIX)}
        state = {name.removeprefix(prefix): v for name, v in kept.items() if name.startswith(prefix)}
        if not order.local_steps:  # scores alone: what was held back stays where it is
            state = {}
        file, after = files.encode(WHOLE, layout.gathered(values), state, _moment(order), metadata)
        remembered = (
            kept | {prefix + name: vector for name, vector in after.items()} if order.local_steps else {}
        )
        return file, remembered


class PieceCoding:
    """What a registration has agreed on, for a gradient that goes piece by piece.

    Each piece is encoded to the bytes that it would have in the update's one file.
    """

    def __init__(self, run: leader_pb2.RunDescription, layout: Layout, order: leader_pb2.WorkOrder) -> None:
        codec = _codec(run.codec_up, order) if run.codec_up else None
        self.files = PieceFiles(layout, run.piece_bytes, codec, zstd=run.zstd)
        self._moment = _moment(order)

    def encode(self, number: int, values: Vector, memory: Mapping[str, Vector]) -> tuple[File, State]:
        """The file of piece `number` of the update, and what its part is to remember of the encoding."""
        if not self.files.encoded(number):
            return self.files.plain(number, values, {}), {}
        state = {name.removeprefix(_PREFIX): v for name, v in memory.items() if name.startswith(_PREFIX)}
        file, after = self.files.encode(number, values, state, self._moment, {})
        return file, {_PREFIX + name: vector for name, vector in after.items()}


def _codec(spec: str, order: leader_pb2.WorkOrder) -> Codec:
    # Where every step is summed, momentum is the encoder's affair if its codec corrects for it.
    return make_codec(spec, momentum=order.momentum if order.exchange == "gradient" else 0.0)


def _moment(order: leader_pb2.WorkOrder) -> Moment:
    return Moment(derive_seed(order.seed, "codec", order.first_batch), order.progress_start)
