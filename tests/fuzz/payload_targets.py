"""Targets for every kind of payload: header, update, model, data, checkpoint, framing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import ByExamples
from leader.events import RoundCommitted
from leader.state import PartHistory, RunState, Seats
from leader.storage.checkpoint import load_checkpoint, save_checkpoint
from learner.wire.connection import Endpoint
from learner.wire.transfer import pull_model, pull_shard
from protos import leader_pb2
from tests.fuzz.channel import Answers, as_channel
from tests.fuzz.files import LAYOUT, File, data_file, model_file, mutated, update_files
from tests.fuzz.mutator import DOUBLES, WIRE, Mutator
from tests.fuzz.oracle import ExpectedSum
from tests.fuzz.runner import AsyncTarget, PlainTarget
from utils.errors import CheckpointError, FlockstepError, PayloadError, WireError
from utils.wire.contract import LeaderStub
from utils.wire.framing import frame
from utils.wire.payload import DTYPES, Payload, PayloadReader
from utils.wire.rpc import parse_chunk, parse_upload

_HEADER_BYTES = 1 << 16
_MAX_BYTES = 4 * LAYOUT.total + _HEADER_BYTES


def collect(chunks: list[bytes], keep_from: int | None = None) -> Payload:
    """The payload in `chunks`, under the limits of a small leader."""
    reader = PayloadReader(max_bytes=_MAX_BYTES, header_bytes=_HEADER_BYTES, keep_from=keep_from)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.finish()


class HeaderTarget(PlainTarget):
    """Files of all dtypes through the reader; what it takes must be what the safetensors library reads."""

    name = "safetensors header"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        arrays: dict[str, NDArray[Any]] = {
            "a": np.arange(6, dtype=np.float64).reshape(2, 3),
            "b": np.arange(4, dtype=np.float16),
            "c": np.array(7, np.int64),
            "d": np.zeros((2, 0), np.float32),
            "e": np.array([True, False]),
            "f": np.arange(3, dtype=np.uint8),
            "g": np.arange(2, dtype=np.uint16),
        }
        self._files = [File.of(safetensors.numpy.save(arrays, {"k": "v"})), File.of(data_file(0))]
        self._files += update_files(self._mutator, 6)

    def step(self) -> str:
        """Feed one file."""
        self.last = file = mutated(self._mutator, self._mutator.pick(self._files))
        try:
            payload = collect(self._mutator.cut(file))
        except WireError as error:
            return type(error).__name__
        # Not `safetensors.numpy`, which has no BF16.
        expected = dict(safetensors.deserialize(bytes(file)))  # type: ignore[no-untyped-call]
        arrays = payload.arrays()
        assert arrays.keys() == expected.keys()
        for name, array in arrays.items():
            other = expected[name]
            assert (array.dtype, list(array.shape)) == (DTYPES[other["dtype"]], other["shape"])
            assert array.tobytes() == bytes(other["data"])
        return "taken"


class UpdateTarget(PlainTarget):
    """Updates into an aggregate; after each one its mean must be that of exactly the accepted ones."""

    name = "update payload"
    _MAX_WEIGHT = 512

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        self._files = update_files(self._mutator, 16)
        self._scale = Scale.of(1024.0, self._MAX_WEIGHT)
        self._renew()

    def _renew(self) -> None:
        self._aggregate = Aggregate(LAYOUT, self._scale, ByExamples())
        self._expected = ExpectedSum(self._scale.fraction_bits)
        self._fed = 0

    def step(self) -> str:
        """Feed one update."""
        mutator = self._mutator
        self._fed += 1
        if self._fed == 32:
            self._renew()
        file = mutated(mutator, mutator.pick(self._files))
        weight = (
            1 + mutator.below(40) if mutator.chance(0.9) else mutator.pick((0, -1, 513, 1 << 63, 1 << 64))
        )
        loss = mutator.pick(DOUBLES)
        self.last = (weight, loss, file)
        outcome = "accepted"
        try:
            payload = collect(mutator.cut(file), mutator.pick((None, 1, 32)))
            self._aggregate.add(Contribution(f"part-{self._fed}", weight, payload, loss))
        except WireError as error:
            outcome = type(error).__name__
        else:
            self._expected.add(file, weight)
        result = self._aggregate.finish()
        assert result.mean.tobytes() == self._expected.mean().tobytes()
        return outcome


class ModelTarget(AsyncTarget):
    """Models as a learner fetches them; what it takes must be the file's own values, in order."""

    name = "model payload"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        self._file = File.of(model_file(seed))
        self._answers = Answers()
        self._leader = Endpoint(LeaderStub(as_channel(self._answers)), b"token")

    async def step(self) -> str:
        """Feed one model."""
        self.last = file = mutated(self._mutator, self._file)
        self._answers.answer = _messages(self._mutator, file)
        try:
            vector = (await pull_model(self._leader, leader_pb2.WorkOrder(version=1), LAYOUT)).vector
        except FlockstepError as error:
            return type(error).__name__
        arrays = safetensors.numpy.load(b"".join(parse_chunk(message) for message in self._answers.answer))
        flat = np.concatenate([arrays[entry.name].ravel() for entry in LAYOUT.entries])
        assert vector.tobytes() == flat.tobytes()
        return "taken"


class DataTarget(AsyncTarget):
    """Shards as a learner fetches them; what it takes must be images and labels that fit each other."""

    name = "data payload"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        # Sound files of no use beside a good one: no examples, no pixels.
        self._files = [File.of(data_file(seed, *shape)) for shape in ((4, 4), (4, 4), (4, 4), (0, 4), (4, 0))]
        self._answers = Answers()
        self._stub = LeaderStub(as_channel(self._answers))

    async def step(self) -> str:
        """Feed one shard."""
        self.last = file = mutated(self._mutator, self._mutator.pick(self._files))
        self._answers.answer = _messages(self._mutator, file)
        try:
            shard = await pull_shard(self._stub, b"token", 0, "", 3)
        except FlockstepError as error:
            return type(error).__name__
        assert shard.images.dtype == np.uint8
        assert shard.images.ndim == 4
        assert shard.images.shape[1] == 3
        assert shard.images.size > 0
        assert shard.labels.dtype == np.int64
        assert shard.labels.shape == shard.images.shape[:1]
        assert 0 <= shard.labels.min() <= shard.labels.max() < 3
        return "taken"


def _messages(mutator: Mutator, file: bytes) -> list[bytes]:
    messages = [frame(chunk) for chunk in mutator.cut(file)]
    if mutator.chance(0.1):
        at = mutator.below(len(messages))
        messages[at] = mutator.garble(messages[at])
    return messages


class CheckpointTarget(PlainTarget):
    """Checkpoint files; each gives the state that was saved, or a CheckpointError."""

    name = "checkpoint file"

    def __init__(self, seed: int, folder: Path) -> None:
        self._mutator = Mutator(seed)
        random = np.random.default_rng(seed)
        committed = RoundCommitted(3, 0.5, 1.0, 100, 200, 2, 30, 0.1)
        seats = Seats((np.arange(4), np.arange(4, 7)), {"0": "alpha", "1": "beta"}, 1)
        vector = random.normal(size=LAYOUT.total).astype(np.float32)
        velocity = random.normal(size=LAYOUT.total).astype(np.float32)
        # Of equal size, so that a header that mixes them up still fits the data.
        optimizer = {"velocity": velocity, "second": vector + velocity}
        history = {"shard-00000": PartHistory(2, 3, 0.5, 1.5)}
        self._state = RunState(
            "run-1", 3, 9, 77, vector, optimizer, seats, 5, 6, 7.5, committed=committed, history=history
        )
        self._path = save_checkpoint(folder, self._state, keep=1, config="seed: 0\n")
        self._file = File.of(self._path.read_bytes())
        self._stream = self._path.open("r+b", buffering=0)

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()

    def step(self) -> str:
        """Feed one file."""
        self.last = file = mutated(self._mutator, self._file)
        self._stream.seek(0)
        self._stream.truncate(self._stream.write(file))
        try:
            state = load_checkpoint(self._path)
        except CheckpointError:
            return "CheckpointError"
        assert plain(state) == plain(self._state)
        return "loaded"


def plain(state: RunState) -> dict[str, object]:
    """A state in values that can be compared."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    seats = state.seats
    fields["vector"] = state.vector.tobytes()
    fields["optimizer"] = {name: array.tobytes() for name, array in state.optimizer.items()}
    fields["seats"] = seats and ([shard.tobytes() for shard in seats.shards], dict(seats.holders), seats.own)
    return fields


class FramingTarget(PlainTarget):
    """Chunk messages; the hand-written parsers must agree with the generated ones."""

    name = "framing"

    def __init__(self, seed: int) -> None:
        self._mutator = Mutator(seed)
        header = leader_pb2.UpdateHeader(token=b"t" * 16, work_id="w" * 32, examples=16, crc32=5)
        self._messages = [frame(bytes(size)) for size in (0, 1, 127, 128, 129, 300)]
        self._messages += [
            leader_pb2.GradientData(chunk=b"abc", header=header).SerializeToString(),
            leader_pb2.GradientData(header=header).SerializeToString(),
            *WIRE,
        ]

    def step(self) -> str:
        """Feed one message."""
        message = self._mutator.pick(self._messages)
        self.last = message = self._mutator.garble(message) if self._mutator.chance(0.95) else message
        upload = _parsed(parse_upload, message)
        expected = _parsed(leader_pb2.GradientData.FromString, message)
        if isinstance(upload, memoryview):
            assert isinstance(expected, leader_pb2.GradientData)
            assert (expected.chunk, expected.HasField("header")) == (upload.tobytes(), False)
        else:
            assert upload == expected
        chunk = _parsed(parse_chunk, message)
        model = _parsed(leader_pb2.ModelChunk.FromString, message)
        assert chunk == (model.chunk if isinstance(model, leader_pb2.ModelChunk) else None)
        if chunk is None:
            return "DecodeError"
        return "one chunk" if isinstance(upload, memoryview) else "message"


def _parsed(parse: Callable[[bytes], object], message: bytes) -> object:
    try:
        return parse(message)
    except (DecodeError, PayloadError):
        return None
