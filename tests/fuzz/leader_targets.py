"""Targets for every RPC of the leader."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

import grpc
import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from protos import leader_pb2
from protos.leader_pb2 import CONTROL_DIALLED, CONTROL_SESSION, LearnerInfo
from tests.fuzz.channel import Context, stream
from tests.fuzz.files import LAYOUT, mutated, update_files
from tests.fuzz.leader import PLAIN_PEER, RESIDENTS, InProcessLeader, Reply, resident_info, upload_messages
from tests.fuzz.mutator import WIRE, Mutator
from tests.fuzz.oracle import ExpectedSum
from tests.fuzz.runner import AsyncTarget
from utils.wire.framing import frame

OK = grpc.StatusCode.OK
#: What a call may end with. INTERNAL and UNKNOWN are not among them: they would be our own bugs.
STATUSES = {
    OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE,
}  # fmt: skip


class RpcTarget(AsyncTarget):
    """One RPC of a leader in this process."""

    changes: ClassVar[Mapping[str, Any]] = {}  # to the config of its leader

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        self.leader = leader
        self.mutator = Mutator(seed)
        self.file = update_files(Mutator(seed), 1)[0].whole
        self._turns: Counter[str] = Counter()

    def turn(self, of: str, every: int) -> bool:
        """Whether it is the turn of what must be among the outcomes but is rare: by chance some runs had none."""
        self._turns[of] += 1
        return self._turns[of] % every == 0

    async def feed(self, *messages: bytes, peer: str = "") -> Reply:
        """Call the target's method; the status must be one that refuses by name."""
        self.last = messages
        reply = await self.leader.call(self.name, messages, peer or self._peer())
        assert reply.code in STATUSES, reply
        return reply

    def _peer(self) -> str:
        return self.mutator.pick(("ipv4:10.0.0.2:7", "ipv4:10.0.0.3:9", "ipv6:[::1]:1", "unix:", ""))

    def token(self) -> bytes:
        """The token of a resident."""
        return self.leader.members[self.mutator.pick(RESIDENTS)].token


def change_messages(mutator: Mutator, messages: list[bytes]) -> None:
    """Change the messages of a stream, or their order, in place."""
    at = mutator.below(len(messages))
    match mutator.below(5):
        case 0:
            messages[at] = mutator.garble(messages[at])
        case 1:
            messages.insert(at, mutator.pick(WIRE))
        case 2:
            messages.insert(at, messages[mutator.below(len(messages))])
        case 3:
            del messages[at:]
        case _:
            messages[:] = messages[at:] + messages[:at]


class RegisterTarget(RpcTarget):
    """RegisterLearner: never more learners than the limit, and each of them can take part in a round."""

    name = "RegisterLearner"

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        super().__init__(leader, seed)
        own = leader_pb2.OwnData(examples=10, classes=3, fingerprint="f" * 64)
        newcomer = LearnerInfo(
            name="newcomer", protocol=1, control=CONTROL_SESSION, release="0.1", device="cpu"
        )
        with_data = LearnerInfo(name="owner", protocol=1, control=CONTROL_SESSION, own_data=own)
        plain = LearnerInfo(network_addr="10.1.1.1:5")
        self._infos = [
            newcomer,
            with_data,
            plain,
            LearnerInfo(protocol=1, control=CONTROL_DIALLED),
        ]
        self._infos += [resident_info(name) for name in RESIDENTS]
        self._fed = 0

    async def step(self) -> str:
        """Register somebody."""
        info = LearnerInfo()
        info.CopyFrom(self.mutator.pick(self._infos))
        if info.name == "newcomer" and self.mutator.chance(0.5):
            info.name = f"newcomer-{self.mutator.below(1 << 30)}"
        if info.name == "owner" and self.mutator.chance(0.2):
            info.own_data.examples = (1 << self.mutator.below(41)) - 1
        reply = await self.feed(self.mutator.message(info))
        assert len(self.leader.workforce) <= self.leader.config.limits.max_learners
        return reply.outcome

    async def rest(self) -> None:
        """Finish a round with everybody who came, then send them away."""
        self._fed += 1
        if self._fed % 250:
            return
        for _ in range(2):  # they take part from the second on
            await self.leader.return_all()
            await self.leader.finish_round(ExpectedSum(16), self.file)
        await self.leader.keep_residents()


class GetModelTarget(RpcTarget):
    """GetModel: the newest model, whole, or a refusal."""

    name = "GetModel"

    async def step(self) -> str:
        """Ask for the model."""
        request = leader_pb2.Empty(token=self.token())
        if self.mutator.chance(0.5):
            request.version = self.leader.coordinator.versions.number or 0
        reply = await self.feed(self.mutator.message(request))
        if reply.code is OK:
            assert tuple(reply.answers) == self.leader.coordinator.versions.get(None).messages
        return reply.outcome


class GetDataTarget(RpcTarget):
    """GetData: a shard that the caller holds, or a refusal."""

    name = "GetData"

    async def step(self) -> str:
        """Ask for a shard."""
        plain = self.mutator.chance(0.2)
        request = leader_pb2.LearnerDataRequest(network_addr="plain.example:1")
        if not plain:
            request = leader_pb2.LearnerDataRequest(token=self.token(), shard=self.mutator.below(6))
        reply = await self.feed(self.mutator.message(request), peer=PLAIN_PEER if plain else "")
        if reply.code is OK:
            file = b"".join(leader_pb2.DataChunk.FromString(message).chunk for message in reply.answers)
            assert safetensors.numpy.load(file)["labels"].size in (12, 13)
        return reply.outcome


class GetWorkTarget(RpcTarget):
    """GetWork: the caller's orders, or a refusal."""

    name = "GetWork"

    async def step(self) -> str:
        """Ask for work."""
        reply = await self.feed(self.mutator.message(leader_pb2.WorkRequest(token=self.token())))
        if reply.code is OK:
            assert len(reply.answers[0].orders) <= 5
        return reply.outcome


class GetUploadTarget(RpcTarget):
    """GetUpload: how much of a broken upload is held, never more than was sent."""

    name = "GetUpload"
    _HELD = 100

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        super().__init__(leader, seed)
        self._request = leader_pb2.UploadRequest()

    async def step(self) -> str:
        """Ask for an upload that broke."""
        if not self._request.work_id:
            await self._break_one()
        changed = self.mutator.message(self._request)
        reply = await self.feed(changed)
        if reply.code is not OK:
            return reply.outcome
        received = reply.answers[0].received
        assert received == (len(self.file) - 4 if changed == self._request.SerializeToString() else received)
        assert received in (0, len(self.file) - 4)
        return "held" if received else "nothing held"

    async def _break_one(self) -> None:
        token = self.leader.members["one"].token
        order = (await self.leader.work(token))[0]
        header, _ = upload_messages(token, order.work_id, 1, self.file)
        reply = await self.leader.call("AccumulateGradients", [header, frame(self.file[:-4])])
        assert reply.code is grpc.StatusCode.INVALID_ARGUMENT
        self._request = leader_pb2.UploadRequest(
            token=token, work_id=order.work_id, total_bytes=len(self.file), crc32=zlib.crc32(self.file)
        )


class AccumulateTarget(RpcTarget):
    """AccumulateGradients: after each round the model must have moved by the mean of what was accepted."""

    name = "AccumulateGradients"
    _A_ROUND = 80  # inputs

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        super().__init__(leader, seed)
        self._files = update_files(self.mutator, 16)
        self._fed = 0
        self._base: NDArray[np.float32] | None = None

    async def step(self) -> str:
        """Send an update; after some of them, close the round and look at the model."""
        if self._base is None:
            await self._open()
        self._fed += 1
        reply = await self._send()
        if self._fed % self._A_ROUND == 0:
            await self._close()
        return reply

    async def _open(self) -> None:
        await self.leader.return_all()
        self._base = vector_of(await self.leader.model())
        self._expected = ExpectedSum(self.leader.fraction_bits())
        # The anchor's work is never fuzzed, so that the round stays open until all inputs are in.
        members = {name: self.leader.members[name] for name in (*RESIDENTS[1:], "plain")}
        orders = {name: await self.leader.work(member.token) for name, member in members.items()}
        self._work = [(name, members[name].token, order) for name, given in orders.items() for order in given]
        self._examples = {part.shard: part.examples for part in self.leader.workforce.parts().values()}

    async def _close(self) -> None:
        assert self._base is not None
        await self.leader.finish_round(self._expected, self.file)
        expected = self._base + self._expected.mean()
        assert vector_of(await self.leader.model()).tobytes() == expected.tobytes()
        self._base = None

    async def _send(self) -> str:
        mutator = self.mutator
        name, token, order = mutator.pick(self._open_work() if mutator.chance(0.7) else self._work)
        if name == "plain":
            owed = await self.leader.work(token)
            if owed:
                order = owed[0]
            elif not self.turn("let wait", 400):  # a plain learner without work
                name, token, order = self._work[0]
        sound = name != "plain" and self.turn("resumed", 60)
        file = mutator.pick(self._files).whole if sound else mutated(mutator, mutator.pick(self._files))
        header = leader_pb2.UpdateHeader(
            token=token,
            work_id=order.work_id,
            examples=1 + mutator.below(12),
            total_bytes=len(file),
            crc32=zlib.crc32(file),
        )
        if not sound and mutator.chance(0.5):
            mutator.field(header)
        messages = [frame(chunk) for chunk in mutator.cut(file)]
        if name != "plain":
            messages.insert(0, leader_pb2.GradientData(header=header).SerializeToString())
        if mutator.chance(0.2):
            change_messages(mutator, messages)
        if sound or (name != "plain" and mutator.chance(0.08)):
            return await self._send_in_two(header, file)
        reply = await self.feed(*messages, peer=PLAIN_PEER if name == "plain" else "ipv4:10.0.0.2:7")
        if reply.code is OK:
            self._accepted(messages, order)
        return reply.outcome

    def _open_work(self) -> list[tuple[str, bytes, leader_pb2.WorkOrder]]:
        """What has no update yet; all of it where there is none such."""
        is_open = self.leader.coordinator.desk.is_open
        return [work for work in self._work if is_open(work[2].work_id)] or self._work

    async def _send_in_two(self, header: leader_pb2.UpdateHeader, file: bytes) -> str:
        """Break off in the middle, go on at some byte."""
        mutator = self.mutator
        cut = mutator.below(len(file) + 1)
        header.offset = 0
        first = [leader_pb2.GradientData(header=header).SerializeToString(), frame(file[:cut])]
        await self._abandon(first)
        header.offset = cut if mutator.chance(0.7) else mutator.pick((0, 1, cut + 1, len(file), 1 << 63))
        rest = file[header.offset :] if header.offset < len(file) else b""
        second = [leader_pb2.GradientData(header=header).SerializeToString(), frame(rest)]
        reply = await self.feed(*second, peer="ipv4:10.0.0.2:7")
        if reply.code is not OK:
            return f"resumed {reply.outcome}"
        self._expected.add(file, header.examples)
        return "resumed OK"

    async def _abandon(self, messages: list[bytes]) -> None:
        """Send messages, then let the call be cancelled, as when the connection breaks."""
        handler, context = self.leader.handlers[self.name], Context("ipv4:10.0.0.2:7")
        sent = asyncio.Event()

        async def broken() -> object:
            async for message in stream(messages, handler.request_deserializer):
                yield message
            sent.set()
            await asyncio.Event().wait()

        call = asyncio.ensure_future(handler.stream_unary(broken(), context))
        over = asyncio.ensure_future(sent.wait())
        await asyncio.wait((call, over), return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        call.cancel()
        await asyncio.gather(call, over, return_exceptions=True)

    def _accepted(self, messages: list[bytes], order: leader_pb2.WorkOrder) -> None:
        """Work out from the raw messages alone what was counted."""
        parsed = [leader_pb2.GradientData.FromString(message) for message in messages]
        first = next(message for message in parsed if message.chunk or message.HasField("header"))
        weight = first.header.examples if first.HasField("header") else self._examples[order.shard]
        self._expected.add(b"".join(message.chunk for message in parsed), weight)


def vector_of(file: bytes) -> NDArray[np.float32]:
    """The values of a model's file, (total,)."""
    arrays = safetensors.numpy.load(file)
    return np.concatenate([arrays[entry.name].ravel() for entry in LAYOUT.entries])


class SessionTarget(RpcTarget):
    """Session: every message counts as one input; residents that were sent away come back."""

    name = "Session"
    _MESSAGES = 8

    def __init__(self, leader: InProcessLeader, seed: int) -> None:
        super().__init__(leader, seed)
        kinds = (
            leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat()),
            leader_pb2.LearnerMessage(
                progress=leader_pb2.Progress(work_id="w", done=3, total=9, images_per_s=5.5)
            ),
            leader_pb2.LearnerMessage(progress=leader_pb2.Progress(done=3, total=9, images_per_s=5.5)),
            leader_pb2.LearnerMessage(failure=leader_pb2.Failure(work_id="w", message="no memory")),
            leader_pb2.LearnerMessage(goodbye=leader_pb2.Goodbye(reason="done")),
        )
        self._kinds = (kinds[0],) * 4 + kinds[1:3] * 4 + kinds[3:]
        self._left = 0
        self._opened = 0

    async def step(self) -> str:
        """Open a session and say a few things in it."""
        if self._left:
            self._left -= 1
            return "further message"
        self._left = self.mutator.below(self._MESSAGES)
        self._opened += 1
        await self.leader.return_all()
        hello = leader_pb2.LearnerMessage(
            hello=leader_pb2.Hello(token=self.leader.members[self.mutator.pick(RESIDENTS[1:])].token)
        )
        first = self.mutator.message(hello) if self.mutator.chance(0.3) else hello.SerializeToString()
        further = [self.mutator.message(self.mutator.pick(self._kinds)) for _ in range(self._left)]
        if self._opened % 500 == 0:
            self.leader.render()
        if self.mutator.chance(0.2):
            return await self._abandon([first, *further])
        reply = await self.feed(first, *further)
        return f"session {reply.outcome}"

    async def _abandon(self, messages: list[bytes]) -> str:
        """Say all that, then vanish."""
        self.last = messages
        handler, context = self.leader.handlers[self.name], Context(self._peer())

        async def silent() -> object:
            async for message in stream(messages, handler.request_deserializer):
                yield message
            await asyncio.Event().wait()

        call = asyncio.ensure_future(handler.stream_stream(silent(), context))
        await asyncio.wait((call,), timeout=0)
        for _ in range(self.mutator.below(6)):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait((call,))
        return "session abandoned"


TARGETS: tuple[type[RpcTarget], ...] = (
    RegisterTarget, GetModelTarget, GetDataTarget, AccumulateTarget, SessionTarget, GetWorkTarget, GetUploadTarget,
)  # fmt: skip
