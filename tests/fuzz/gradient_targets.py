"""The target for ExchangeGradients: streams of pieces, any message of which may be wrong."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, ClassVar

import grpc
import numpy as np
from numpy.typing import NDArray

from leader.aggregation.base import Contribution
from leader.config import CodecConfig, TrainConfig
from leader.optimizers.base import Step
from leader.optimizers.choose import make_optimizer
from leader.rounds.protocol import RoundEvent
from leader.training.inbox import Submission
from protos import leader_pb2
from tests.fuzz.channel import Context, RefusedError
from tests.fuzz.downloads import Deaf, Download, Listener
from tests.fuzz.expected_step import Added, ExpectedStep
from tests.fuzz.files import LAYOUT, File, mutated, update_files
from tests.fuzz.leader import PEER, PLAIN_PEER, RESIDENTS, InProcessLeader, upload_messages
from tests.fuzz.leader_targets import OK, STATUSES, RpcTarget, change_messages, vector_of
from tests.fuzz.mutator import Mutator
from tests.fuzz.piece_pool import VARIANTS, PiecePool
from utils.wire.framing import frame

_PIECE_BYTES = 20  # smaller than any run's: the tiny model has several pieces, and a tensor that is cut
_LONGEST_STEP_S = 20.0
_SPLIT = LAYOUT.parameter_count


class ExchangeTarget(RpcTarget):
    """ExchangeGradients: each step's sum must be of what was taken, and its new weights the same everywhere."""

    name = "ExchangeGradients"
    changes: ClassVar[Mapping[str, Any]] = {
        "exchange": "gradient",
        "train": TrainConfig(batch_size=8, local_steps=2, schedule="constant"),
        "codec": CodecConfig(up="int8", zstd=True).model_copy(update={"piece_bytes": _PIECE_BYTES}),
    }
    _A_STEP = 40  # inputs

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        super().__init__(leader, seed)
        self._pool = PiecePool(leader.config.codec)
        self._whole = [file.whole for file in update_files(Mutator(seed), 4)]
        self._optimizer = make_optimizer(leader.config)
        self._state = self._optimizer.init(_SPLIT)
        self._base: NDArray[np.float32] | None = None
        self._fed = 0
        self._old: leader_pb2.WorkOrder | None = None
        leader.watched.on_added = self._note

    async def step(self) -> str:
        """Send a stream, or two at once; after some of them, close the step and look at the model."""
        if self._base is None:
            await self._open()
        self._fed += 1
        outcome = await self._send()
        if self._fed % self._A_STEP == 0:
            await self._close()
        return outcome

    # --- the step ------------------------------------------------------------------------

    async def _open(self) -> None:
        leader = self.leader
        self._base = vector_of(await leader.model())
        self._expected = ExpectedStep(leader.fraction_bits(), len(self._pool), self._pool.plain)
        self._sent: dict[int, bytes] = {}  # files by CRC-32
        self._slices: list[tuple[leader_pb2.Piece, bytes]] = []
        self._work = {name: (await leader.work(leader.members[name].token))[0] for name in leader.members}
        parts = {part.shard: part.examples for part in leader.workforce.parts().values()}
        self._examples = {order.work_id: parts[order.shard] for order in self._work.values()}

    def _note(self, submission: Submission, contribution: Contribution, event: RoundEvent | None) -> None:
        """The leader has taken an update, or a piece of one: it must have made of it what we do."""
        work_id, piece = submission.work_id, submission.piece
        header, file = submission.upload.header, self._sent[contribution.payload.crc32]
        weight = header.examples if header else self._examples[work_id]
        if piece is None:
            expected = self._expected.take_whole(work_id, weight, file)
        else:
            expected = self._expected.take_piece(work_id, weight, piece.number, piece.attempt, file)
        assert Added.of(event, whole=piece is None) is expected, (event, expected)

    async def _close(self) -> None:
        """All learners send what is missing and read to the end of the step."""
        assert self._base is not None
        leader, expected = self.leader, self._expected
        version = leader.coordinator.versions.number
        order = next(iter(self._work.values()))
        async with asyncio.timeout(_LONGEST_STEP_S):
            await (
                self._anchor_sends()
            )  # after what broken calls have left in the inbox: it may begin the step anew
            await self._send_whole("plain")
            downloads = await asyncio.gather(*(self._finish(name) for name in RESIDENTS))
        after = self._stepped(expected.mean())
        await leader.next_round()
        assert vector_of(await leader.model()).tobytes() == after.tobytes()
        for download, name in zip(downloads, RESIDENTS, strict=True):
            stepped = download.stepped[-1]
            assert (stepped.round, stepped.step) == (order.round, order.step)
            assert list(stepped.counted) == [self._work[name].work_id]
            assert stepped.version != version
            assert stepped.version in (0, leader.coordinator.versions.number)
            last = [piece.number for piece, _ in download.slices if piece.attempt == expected.attempt]
            assert not stepped.version or sorted(last) == list(range(len(self._pool)))
            self._slices += download.slices
        for piece, file in self._slices:
            if piece.attempt == expected.attempt:
                place = self._pool.files.pieces[piece.number]
                assert file.endswith(after[place.start : place.stop].tobytes())
        self._old, self._base = order, None

    def _stepped(self, mean: NDArray[np.float32]) -> NDArray[np.float32]:
        assert self._base is not None
        step = Step(self.leader.config.train.lr)
        self._state, parameters = self._optimizer.apply(self._state, self._base[:_SPLIT], mean[:_SPLIT], step)
        return np.concatenate([parameters, self._base[_SPLIT:] + mean[_SPLIT:]])

    async def _finish(self, name: str) -> Download:
        """Send the pieces of a learner's work that are missing, and read until the step is over."""
        context, code = await self._finish_once(name)
        while code is grpc.StatusCode.RESOURCE_EXHAUSTED:  # others had the places: as told, it comes again
            await asyncio.sleep(0.05)
            context, code = await self._finish_once(name)
        return Download(context.written)

    async def _finish_once(self, name: str) -> tuple[Listener, grpc.StatusCode]:
        work_id, context = self._work[name].work_id, Listener(_peer(name))
        messages = [self._header(name).SerializeToString()]
        if not self._expected.complete(work_id):
            for number in range(len(self._pool)):
                if number not in self._expected.pieces(work_id):
                    messages += self._sound_piece(number, self._variant(name))

        async def stream() -> AsyncIterator[bytes]:
            for message in messages:
                yield message
            await context.stepped.wait()

        return context, await self._serve(stream(), context)

    async def _send_whole(self, name: str) -> str:
        """Send a learner's whole update, or what is missing of it where pieces are there."""
        work_id = self._work[name].work_id
        if self._expected.complete(work_id):
            return "whole known"
        if self._expected.pieces(work_id):
            missing = [n for n in range(len(self._pool)) if n not in self._expected.pieces(work_id)]
            sound = [m for n in missing for m in self._sound_piece(n, self._variant(name))]
            reply = await self.feed(self._header(name).SerializeToString(), *sound, peer=_peer(name))
        else:
            file = self._known(self.mutator.pick(self._whole))
            sent = upload_messages(self._token(name), work_id, self._weight(name), file)
            sent = sent[1:] if name == "plain" else sent
            reply = await self.leader.call("AccumulateGradients", sent, _peer(name))
        assert reply.code is OK, reply
        assert self._expected.complete(work_id)
        return "whole OK"

    async def _serve(self, stream: AsyncIterator[bytes], context: Context) -> grpc.StatusCode:
        handler = self.leader.handlers[self.name]

        async def parsed() -> AsyncIterator[object]:
            async for message in stream:
                yield handler.request_deserializer(message)

        try:
            await handler.stream_stream(parsed(), context)
            code = OK
        except RefusedError as error:
            code = error.code
        assert code in STATUSES, code
        return code

    # --- one input -----------------------------------------------------------------------

    async def _send(self) -> str:
        mutator = self.mutator
        name = mutator.pick((*RESIDENTS[1:], "plain"))
        match mutator.below(1000):
            case choice if choice < 30:
                return await self._anchor_sends()
            case choice if choice < 60:
                return await self._send_whole_mutated(name)
            case choice if choice < 130:
                return await self._two_at_once(name)
            case choice if choice < 200:
                return await self._abandon(name)
        if self.turn("stalled", 2500):  # each waits for limits.stall_s
            return await self._stall(name)
        if self.turn("not read", 2500):
            return await self._read_nothing(name)
        return await self._stream(name)

    async def _stream(self, name: str) -> str:
        messages = self._messages(name)
        reply = await self.feed(*messages, peer=_peer(name))
        if reply.code is OK:
            download = Download(reply.answers)
            self._slices += download.slices
            return "redo" if download.redone else "OK"
        if self.mutator.chance(0.05) and messages[:1] == [self._header(name).SerializeToString()]:
            await self._ask_again(name, reply.code)
        return reply.outcome

    async def _ask_again(self, name: str, code: grpc.StatusCode) -> None:
        """What a stream was refused with is told once more to its learner, by GetUpload."""
        request = leader_pb2.UploadRequest(token=self._token(name), work_id=self._work[name].work_id)
        told = await self.leader.call("GetUpload", [request.SerializeToString()], _peer(name))
        assert told.code is code, (told, code)
        told = await self.leader.call("GetUpload", [request.SerializeToString()], _peer(name))
        assert told.code in (OK, grpc.StatusCode.ALREADY_EXISTS), told

    async def _anchor_sends(self) -> str:
        """The anchor's work is never fuzzed, and never whole: the step stays open until all inputs are in."""
        messages = [self._header("anchor").SerializeToString()]
        for number in range(1, len(self._pool)):
            messages += self._sound_piece(number, self._variant("anchor"))
        reply = await self.feed(*messages)
        assert reply.code is OK, reply
        self._slices += Download(reply.answers).slices
        return "anchor OK"

    async def _send_whole_mutated(self, name: str) -> str:
        if name == "plain" and self._expected.complete(self._work[name].work_id):
            name = "one"  # a plain learner without work is let wait
        file = self._known(mutated(self.mutator, File.of(self.mutator.pick(self._whole))))
        sent = upload_messages(self._token(name), self._work[name].work_id, self._weight(name), file)
        reply = await self.leader.call("AccumulateGradients", sent[name == "plain" :], _peer(name))
        assert reply.code in STATUSES, reply
        return f"whole {reply.outcome}"

    async def _two_at_once(self, name: str) -> str:
        """Two streams, message by message in turn; where they are one learner's, the second ends the first."""
        names = (name, self.mutator.pick((*RESIDENTS[1:], "plain")))
        streams = [self._messages(one) for one in names]
        self.last = streams

        async def in_turn(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
            for message in messages:
                yield message
                await asyncio.sleep(0)

        contexts = [Context(_peer(one)) for one in names]
        calls = (self._serve(in_turn(sent), to) for sent, to in zip(streams, contexts, strict=True))
        codes = await asyncio.gather(*calls)
        for code, context in zip(codes, contexts, strict=True):
            if code is OK:
                self._slices += Download(context.written).slices
        return f"two {codes[1].name}"

    async def _abandon(self, name: str) -> str:
        """Send some messages, then vanish: the call is cancelled, whatever it is doing."""
        messages = self._messages(name)
        self.last = messages = messages[: 1 + self.mutator.below(len(messages))]
        sent = asyncio.Event()

        async def broken() -> AsyncIterator[bytes]:
            for message in messages:
                yield message
            sent.set()
            await asyncio.Event().wait()

        call = asyncio.ensure_future(self._serve(broken(), Context(_peer(name))))
        over = asyncio.ensure_future(sent.wait())
        if self.mutator.chance(0.5):
            await asyncio.wait((call, over), return_when=asyncio.FIRST_COMPLETED)
        else:
            for _ in range(self.mutator.below(12)):
                await asyncio.sleep(0)
        over.cancel()
        call.cancel()
        await asyncio.gather(call, over, return_exceptions=True)
        if not call.cancelled() and (error := call.exception()):
            raise error
        return "abandoned"

    async def _stall(self, name: str) -> str:
        """Stop in the middle of a piece: the leader must end the stream."""
        messages = [self._header(name).SerializeToString(), *self._sound_piece(0, 0)[:1]]

        async def silent() -> AsyncIterator[bytes]:
            for message in messages:
                yield message
            await asyncio.Event().wait()

        code = await self._serve(silent(), Context(_peer(name)))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        return "stalled"

    async def _read_nothing(self, name: str) -> str:
        """Ask for answers and read none: the leader must end the stream."""
        header = self._header(name)
        header.header.work_id = f"0-0-{'0' * 32}"
        code = await self._serve(_of([header.SerializeToString()]), Deaf(_peer(name)))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        return "not read"

    # --- messages ------------------------------------------------------------------------

    def _messages(self, name: str) -> list[bytes]:
        """One or two updates in pieces, with changes to any of it; now and then as they are."""
        mutator = self.mutator
        messages = []
        for _ in range(1 + mutator.chance(0.1)):
            header = self._header(name)
            if mutator.chance(0.03):
                header.header.examples = 1 + mutator.below(12)
            if mutator.chance(0.05):
                header.header.work_id = self._other_work()
            if mutator.chance(0.15):
                mutator.field(header.header)
            messages.append(header.SerializeToString())
            numbers = mutator.random.sample(range(len(self._pool)), mutator.below(len(self._pool) + 1))
            for number in numbers:
                messages += self._piece(name, number)
        if mutator.chance(0.15):
            change_messages(mutator, messages)
        return messages

    def _piece(self, name: str, number: int) -> list[bytes]:
        mutator = self.mutator
        variant = self._variant(name) if mutator.chance(0.97) else mutator.below(VARIANTS)
        if mutator.chance(0.8):
            messages = self._sound_piece(number, variant)
        else:
            file = self._known(mutated(mutator, self._pool.file(number, variant)))
            messages = self._announced(number, file, lambda piece: None)
        if mutator.chance(0.08):
            file = self._known(self._pool.file(number, variant).whole)
            messages = self._announced(number, file, self._change_piece)
        return messages

    def _sound_piece(self, number: int, variant: int) -> list[bytes]:
        file = self._known(self._pool.file(number, variant).whole)
        return self._announced(number, file, lambda piece: None)

    def _change_piece(self, piece: leader_pb2.Piece) -> None:
        if self.mutator.chance(0.3):
            piece.attempt = self.mutator.below(self._expected.attempt + 2)
        else:
            self.mutator.field(piece)

    def _announced(self, number: int, file: bytes, change: Callable[[leader_pb2.Piece], None]) -> list[bytes]:
        piece = leader_pb2.Piece(
            number=number, total_bytes=len(file), crc32=zlib.crc32(file), attempt=self._expected.attempt
        )
        change(piece)
        said = leader_pb2.GradientData(piece=piece)
        return [said.SerializeToString(), *(frame(chunk) for chunk in self.mutator.cut(file))]

    def _header(self, name: str) -> leader_pb2.GradientData:
        header = leader_pb2.UpdateHeader(
            token=self._token(name), work_id=self._work[name].work_id, examples=self._weight(name), loss=1.0
        )
        return leader_pb2.GradientData(header=header)

    def _other_work(self) -> str:
        """Somebody else's, that of an older step, or none at all."""
        match self.mutator.below(4):
            case 0:
                return self._work[self.mutator.pick(RESIDENTS)].work_id
            case 1 if self._old is not None:
                return self._old.work_id
            case 2:
                order = self._work["anchor"]
                return f"{order.round}-{order.step}-{'0' * 32}"
            case _:
                return f"{self.mutator.below(1 << 30)}-1-{'0' * 32}"

    def _weight(self, name: str) -> int:
        """What a learner's update counts: as its pieces that are there say, else always the same."""
        work_id = self._work[name].work_id
        return self._expected.weight(work_id) or 1 + zlib.crc32(work_id.encode()) % self._examples[work_id]

    def _variant(self, name: str) -> int:
        """Which of the sound files a learner sends in this step."""
        return zlib.crc32(self._work[name].work_id.encode()) % VARIANTS

    def _token(self, name: str) -> bytes:
        return b"" if name == "plain" else self.leader.members[name].token

    def _known(self, file: bytes) -> bytes:
        self._sent[zlib.crc32(file)] = file
        return file


def _peer(name: str) -> str:
    return PLAIN_PEER if name == "plain" else PEER


async def _of(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message
