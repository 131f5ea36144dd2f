"""Targets for encoded files: updates as the leader reads them, changes of the model as a learner does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.aggregate import check_update
from leader.aggregation.decoding import Decoder
from leader.config import CodecConfig
from learner.wire.encoding import Coding
from model.piece_files import WHOLE, PieceFiles
from protos import leader_pb2
from tests.fuzz.files import LAYOUT, File, mutated
from tests.fuzz.mutator import Mutator
from tests.fuzz.runner import PlainTarget
from utils.codecs import Moment, make_codec
from utils.codecs.compression import compressed
from utils.codecs.files import File as EncodedFile
from utils.errors import WireError
from utils.wire.payload import Payload, PayloadReader

_PIECE_BYTES = 64 << 10
_CONFIGS: dict[str, dict[str, object]] = {
    "bf16": {"up": "bf16"},
    "fp16": {"up": "fp16"},
    "int8": {"up": "int8"},
    "int4": {"up": "int4"},
    "topk:0.3": {"up": "topk", "fraction": 0.3},
    "powersgd:1": {"up": "powersgd", "rank": 1},
}


def _whole(file: EncodedFile) -> File:
    return File.of(file.header + file.body.tobytes())


def _vector(seed: int, *, zeros: bool) -> NDArray[np.float32]:
    """Values for LAYOUT; zeros where zstd is to find something."""
    values = np.random.default_rng(seed).normal(size=LAYOUT.total).astype(np.float32)
    return np.zeros_like(values) if zeros else values


class EncodedUpdateTarget(PlainTarget):
    """Updates in every codec; what is taken must be an update in float32, finite but for the buffers."""

    name = "encoded update"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        order = leader_pb2.WorkOrder(exchange="delta", local_steps=1, seed=seed)
        self._cases: list[tuple[Decoder, File]] = []
        for spec, config in _CONFIGS.items():
            decoder = Decoder(CodecConfig.model_validate({**config, "piece_bytes": _PIECE_BYTES}), LAYOUT)
            for zstd in (False, True):
                run = leader_pb2.RunDescription(codec_up=spec, piece_bytes=_PIECE_BYTES, zstd=zstd)
                values = _vector(seed, zeros=zstd)
                file, _ = Coding(run, LAYOUT).encode(order, values, {})
                self._cases.append((decoder, _whole(file)))

    def step(self) -> str:
        """Feed one update."""
        decoder, file = self._mutator.pick(self._cases)
        self.last = bytes_ = mutated(self._mutator, file)
        try:
            payload = _collect(self._mutator, bytes_, decoder)
            update = decoder.decode(payload)
            if payload.manifest.metadata.get("codec", "none") == "none":
                return "float32"
        except WireError as error:
            return type(error).__name__
        check_update(LAYOUT, update.manifest)
        values = update.data.view(np.float32)
        assert values.size in (LAYOUT.parameter_count, LAYOUT.total)
        assert np.isfinite(values[: LAYOUT.parameter_count]).all()
        assert update.crc32 == payload.crc32
        return "taken"


def _collect(mutator: Mutator, file: bytes, decoder: Decoder) -> Payload:
    reader = PayloadReader(max_bytes=1 << 17, header_bytes=1 << 16, accept=decoder.check)
    for chunk in mutator.cut(file):
        reader.feed(chunk)
    return reader.finish()


class ChangeTarget(PlainTarget):
    """Changes of the model in every codec; what is taken must be a model of the same size."""

    name = "change of the model"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        self._base = _vector(seed, zeros=False)
        self._cases: list[tuple[PieceFiles, File]] = []
        for spec in _CONFIGS:
            if spec.startswith("powersgd"):
                continue
            changes = PieceFiles(LAYOUT, _PIECE_BYTES, make_codec(spec))
            for target in (_vector(seed + 1, zeros=False), self._base):
                change, metadata = target.copy(), {"version": "2", "base": "1"}
                split = LAYOUT.parameter_count
                change[:split] -= self._base[:split]
                file, _ = changes.encode(WHOLE, change, {}, Moment(seed), metadata)
                self._cases += [(changes, _whole(file)), (changes, _whole(compressed(file)))]

    def step(self) -> str:
        """Feed one change."""
        changes, file = self._mutator.pick(self._cases)
        self.last = bytes_ = mutated(self._mutator, file)
        reader = PayloadReader(
            max_bytes=1 << 17, header_bytes=1 << 16, accept=lambda m: changes.check(WHOLE, m)
        )
        try:
            for chunk in self._mutator.cut(bytes_):
                reader.feed(chunk)
            vector = changes.apply(self._base, reader.finish())
        except WireError as error:
            return type(error).__name__
        assert vector.shape == self._base.shape
        assert vector.dtype == np.float32
        return "taken"
