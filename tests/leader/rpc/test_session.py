from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from leader.config import RunConfig
from leader.events import Event, EventStream, LearnerLeft, LearnerProgress
from leader.global_model.versions import VersionStore
from leader.learners.workforce import Workforce
from leader.rpc.inline_models import InlineModels
from leader.rpc.refusal_counts import Refusals
from leader.rpc.session import Sessions
from leader.training.coordinator import Coordinator
from leader.training.round_metrics import Traffic
from leader.trust.identities.callers import anonymous
from model.layout import Layout
from protos import leader_pb2
from protos.leader_pb2 import LearnerMessage
from utils.errors import PayloadError, StalledError, UnknownLearnerError, WireError

ORDER = leader_pb2.WorkOrder(work_id="w1", round=4)
Script = Callable[["Leader"], AsyncIterator[LearnerMessage]]


class Leader:
    """A workforce with one learner, and a desk that has one order for it."""

    def __init__(self) -> None:
        config = RunConfig.model_validate({"data": {"holder": "learner"}})
        stream = EventStream()
        self.events: list[Event] = []
        stream.subscribe(self.events.append)
        self.workforce = Workforce(config, classes=10, labels=None, seats=None, events=stream)
        own = leader_pb2.OwnData(examples=5, classes=10)
        info = leader_pb2.LearnerInfo(name="a", control=leader_pb2.CONTROL_SESSION, own_data=own)
        self.member = self.workforce.register(info, anonymous("ipv4:1.1.1.1:1"))
        self.failures: list[tuple[str, str]] = []
        self.sent: list[leader_pb2.LeaderMessage] = []
        self.received = asyncio.Event()
        self.refusals = Refusals(stream)
        desk = SimpleNamespace(
            failed=lambda member, work_id, reason: self.failures.append((work_id, reason)),
        )
        coordinator = SimpleNamespace(
            workforce=self.workforce,
            state=SimpleNamespace(round=3),
            desk=desk,
            returned=lambda member: member.link.work(ORDER),
        )
        models = InlineModels(VersionStore(Layout((), ()), 1 << 20), Traffic(), 1)
        self.sessions = Sessions(cast(Coordinator, coordinator), 0.05, stream, self.refusals, models)

    async def _send(self, message: leader_pb2.LeaderMessage) -> None:
        self.sent.append(message)
        self.received.set()

    def hello(self) -> LearnerMessage:
        return LearnerMessage(hello=leader_pb2.Hello(token=self.member.token))

    def serve(self, script: Script) -> Awaitable[None]:
        return self.sessions.serve(self.member.caller, script(self), self._send)


def after(script: Script, change: Callable[[Leader], Any] = lambda leader: None) -> Leader:
    """A leader whose one session has come to its end by itself."""

    async def scenario() -> Leader:
        leader = Leader()
        change(leader)
        async with asyncio.timeout(20):
            await leader.serve(script)
        return leader

    return asyncio.run(scenario())


def saying(*messages: LearnerMessage) -> Script:
    async def script(leader: Leader) -> AsyncIterator[LearnerMessage]:
        yield leader.hello()
        for message in messages:
            yield message

    return script


def test_open_work_is_told_when_the_session_begins_and_the_stop_is_the_last_message() -> None:
    async def script(leader: Leader) -> AsyncIterator[LearnerMessage]:
        yield leader.hello()
        await leader.received.wait()
        assert leader.member.connected
        leader.member.link.committed(4, 9)
        leader.member.link.stop("all rounds are done", finished=True)
        await asyncio.Event().wait()  # the leader need not wait for the learner's side

    leader = after(script)
    assert leader.sent == [
        leader_pb2.LeaderMessage(work=ORDER),
        leader_pb2.LeaderMessage(committed=leader_pb2.Committed(round=4)),
        leader_pb2.LeaderMessage(stop=leader_pb2.Stop(reason="all rounds are done", finished=True)),
    ]
    assert not leader.member.connected


def test_a_session_that_ends_leaves_its_learner_registered_until_the_lease_runs_out() -> None:
    leader = after(saying(LearnerMessage(heartbeat=leader_pb2.Heartbeat())))
    assert list(leader.workforce) == [leader.member]
    assert not leader.member.connected


def test_every_message_is_a_sign_of_life() -> None:
    def long_ago(leader: Leader) -> None:
        leader.member.last_seen = 0.0

    assert after(saying(), long_ago).member.last_seen > 0


def test_progress_is_told_for_the_open_round() -> None:
    progress = leader_pb2.Progress(work_id="w1", done=3, total=9, images_per_s=5.5)
    assert after(saying(LearnerMessage(progress=progress))).events[-1] == LearnerProgress(1, 4, 3, 9, 5.5)


@pytest.mark.parametrize("speed", [math.nan, math.inf, -1.0, 1e308])
def test_a_speed_that_can_not_be_is_not_told(speed: float) -> None:
    progress = leader_pb2.Progress(done=2**32 - 1, total=0, images_per_s=speed)
    event = after(saying(LearnerMessage(progress=progress))).events[-1]
    assert isinstance(event, LearnerProgress)
    assert (event.done, event.total, math.isnan(event.images_per_s)) == (2**32 - 1, 0, True)


def test_a_learner_that_fails_leaves_and_the_run_hears_why() -> None:
    failure = leader_pb2.Failure(work_id="w1", message="x" * 600)
    leader = after(saying(LearnerMessage(failure=failure)))
    assert leader.events[-1] == LearnerLeft(1, "a", f"failed: {'x' * 500}")
    assert leader.failures == [("w1", "x" * 500)]
    assert len(leader.workforce) == 0


@pytest.mark.parametrize(("said", "reason"), [("signal", "signal"), ("", "said goodbye")])
def test_a_learner_that_says_goodbye_leaves(said: str, reason: str) -> None:
    leader = after(saying(LearnerMessage(goodbye=leader_pb2.Goodbye(reason=said))))
    assert leader.events[-1] == LearnerLeft(1, "a", reason)


def test_a_message_that_is_none_ends_the_session_and_counts_as_refused() -> None:
    async def script(leader: Leader) -> AsyncIterator[LearnerMessage]:
        yield leader.hello()
        raise PayloadError("bytes that are no message of this contract")

    leader = after(script)
    assert leader.refusals.counts == {"PayloadError": 1}
    assert list(leader.workforce) == [leader.member]


async def nothing(leader: Leader) -> AsyncIterator[LearnerMessage]:
    await asyncio.Event().wait()
    yield leader.hello()


async def no_hello(leader: Leader) -> AsyncIterator[LearnerMessage]:
    yield LearnerMessage(heartbeat=leader_pb2.Heartbeat())


async def unknown(leader: Leader) -> AsyncIterator[LearnerMessage]:
    yield LearnerMessage(hello=leader_pb2.Hello(token=b"?" * 16))


async def empty(leader: Leader) -> AsyncIterator[LearnerMessage]:
    return
    yield


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        (nothing, StalledError, "nobody said hello"),
        (no_hello, PayloadError, "a session begins with hello"),
        (empty, PayloadError, "a session begins with hello"),
        (unknown, UnknownLearnerError, "unknown session token; register again"),
    ],
)
def test_a_session_without_a_proper_hello_is_refused(
    script: Script, kind: type[WireError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        after(script)
