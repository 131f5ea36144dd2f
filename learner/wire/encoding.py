"""One run's codecs at a learner: how its updates are encoded, and what comes in place of models."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from learner.training.algorithms.streaming_diloco import exchanged
from model.layout import Layout
from model.piece_files import WHOLE, PieceFiles
from protos import leader_pb2
from utils.codecs import Moment, make_codec
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
        self._files = partial(PieceFiles, piece_bytes=run.piece_bytes, cut_tensors=run.cut_tensors)
        self._zstd = run.zstd
        # What an older release kept of tensors that it didn't cut has other sizes; it stays where it is.
        self._prefix = f"{_PREFIX}cut." if run.cut_tensors else _PREFIX

    def changes(self, order: leader_pb2.WorkOrder) -> PieceFiles | None:
        """How what comes in place of the order's model is read; None where models come whole."""
        if order.fragments and not order.HasField("fresh"):
            return None
        if self._down is None and not order.fragments:
            return None
        return self._files(exchanged(order, self._layout, order.fresh), codec=self._down)

    def encoder(self, order: leader_pb2.WorkOrder) -> Encoder:
        """What encodes the update of an order, whole or piece by piece."""
        # Where every step is summed, momentum is the encoder's affair if its codec corrects for it.
        momentum = order.momentum if order.exchange == "gradient" else 0.0
        codec = make_codec(self._up, momentum=momentum, nesterov=order.nesterov) if self._up else None
        layout = exchanged(order, self._layout, order.fragment)
        return Encoder(order, self._files(layout, codec=codec, zstd=self._zstd), self._prefix)

    def encode(
        self, order: leader_pb2.WorkOrder, values: Vector, memory: Mapping[str, Vector]
    ) -> tuple[File, State]:
        """The file of a whole update, values (total,), and what its part is to remember of the encoding.

        Tensors that stay local are not in it. `memory` is what the part remembers now.
        """
        encoder = self.encoder(order)
        return encoder.encode(WHOLE, encoder.files.layout.gathered(values), memory)


class Encoder:
    """Encodes one order's update; a piece alone has the bytes that it has in the update's one file."""

    def __init__(self, order: leader_pb2.WorkOrder, files: PieceFiles, prefix: str) -> None:
        self.files = files
        self._moment = Moment(derive_seed(order.seed, "codec", order.first_batch), order.progress_start)
        self._trains = order.local_steps > 0
        self._metadata, self._prefix = {"exchange": order.exchange}, prefix
        if order.fragments:
            self._metadata["fragment"] = str(order.fragment)
            self._prefix += f"{order.fragment}-of-{order.fragments}."

    def encode(self, number: int | None, values: Vector, memory: Mapping[str, Vector]) -> tuple[File, State]:
        """The file of piece `number`, or of WHOLE, and what the part is to remember of the encoding.

        `memory` is what the part remembers now, of all pieces and fragments; WHOLE hands all of it on.
        """
        metadata = self._metadata if number is WHOLE else {}
        if not self.files.encoded(number):
            return self.files.plain(number, values, metadata), {}
        kept = {name: vector for name, vector in memory.items() if name.startswith(_PREFIX)}
        own = {
            name.removeprefix(self._prefix): v for name, v in kept.items() if name.startswith(self._prefix)
        }
        if not self._trains:  # scores alone: what was held back stays where it is
            return self.files.encode(number, values, {}, self._moment, metadata)[0], {}
        file, after = self.files.encode(number, values, own, self._moment, metadata)
        remembered = {self._prefix + name: vector for name, vector in after.items()}
        return file, kept | remembered if number is WHOLE else remembered
