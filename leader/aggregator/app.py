"""The aggregator program: join the leader, sum the run's log in a thread, join again when the leader is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

from leader.aggregator.member import Member
from leader.edge.joined import config_of
from leader.edge.options import JoinOptions
from leader.edge.parent import Parent, Say, until_signalled
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.run_log import RunLog
from protos import edge_pb2
from utils.errors import ConfigError

_log = logging.getLogger(__name__)


class Summing:
    """A member of the group, in a thread of its own; streams to the leader come and go meanwhile."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._loop = asyncio.get_running_loop()
        self.lose: Callable[[], None] = lambda: None  # ends the stream, so that all is begun anew
        self.goes_on = True
        self._thread = threading.Thread(target=self._run, name="summing")
        self._thread.start()

    def leave(self) -> None:
        """Leave the group."""
        self._member.stop()

    def _run(self) -> None:
        try:
            self._member.run()
        except Exception:
            _log.exception("summing has ended; this aggregator joins again")
            self.goes_on = False
            with suppress(RuntimeError):  # the program has ended meanwhile
                self._loop.call_soon_threadsafe(lambda: self.lose())

    async def heed(self, message: edge_pb2.EdgeDown) -> None:
        """See Work: what there is to do stands in the log."""

    def stop(self, reason: str) -> None:
        """See Work."""

    def end(self) -> None:
        """See Work: the group is not left for a leader that is away, as coming again takes groups seconds."""


class App:
    """One aggregator, from its first Welcome to the leader's Stop."""

    def __init__(self, options: JoinOptions) -> None:
        """Raises ConfigError or ForbiddenError; see Parent."""
        self._options = options
        self._parent = Parent(options, "aggregator", self._begin)
        self._summing: Summing | None = None
        self._place: tuple[object, ...] = ()  # what it sums
        self.leave = self._parent.leave

    async def follow(self) -> str:
        """See Parent."""
        try:
            return await self._parent.follow()
        finally:
            if self._summing is not None:
                self._summing.leave()

    async def _begin(self, welcome: edge_pb2.Welcome, say: Say, lose: Callable[[], None]) -> Summing:
        kafka = config_of(welcome).services.kafka
        if not kafka.carries:
            raise ConfigError("this run keeps no updates in Kafka: set services.kafka.brokers at its leader")
        _log.info("joined run %s as aggregator %s", welcome.run_id, self._parent.name)
        place = (kafka, welcome.run_id, welcome.key)
        if self._summing is None or not self._summing.goes_on or place != self._place:
            if self._summing is not None:
                self._summing.leave()
            log = KafkaLog(settings_of(kafka.brokers, self._options.kafka_properties))
            self._summing = Summing(Member(log, RunLog(log, kafka.topic, welcome.run_id, welcome.key)))
            self._place = place
        self._summing.lose = lose
        return self._summing


async def serve(options: JoinOptions) -> int:
    """Run one aggregator until the leader says stop or a signal comes; returns the exit code."""
    app = App(options)
    return await until_signalled(app.follow(), app.leave)


def run(options: JoinOptions) -> int:
    """Run one aggregator; returns the exit code."""
    return asyncio.run(serve(options))
