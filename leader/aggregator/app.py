"""The aggregator program: join the leader, sum the run's log in a thread, join again when the leader is lost."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

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
    """The work of one stream: a member of the group, in a thread of its own."""

    def __init__(self, member: Member, lose: Callable[[], None]) -> None:
        """`lose` ends the stream, so that another one is joined and this work is begun anew."""
        self._member = member
        self._lose = partial(asyncio.get_running_loop().call_soon_threadsafe, lose)
        self._thread = threading.Thread(target=self._run, name="summing")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._member.run()
        except Exception:
            _log.exception("summing has ended; this aggregator joins again")
            with suppress(RuntimeError):  # the program has ended meanwhile
                self._lose()

    async def heed(self, message: edge_pb2.EdgeDown) -> None:
        """See Work: what there is to do stands in the log."""

    def stop(self, reason: str) -> None:
        """See Work."""

    def end(self) -> None:
        """See Work."""
        self._member.stop()


class App:
    """One aggregator, from its first Welcome to the leader's Stop."""

    def __init__(self, options: JoinOptions) -> None:
        """Raises ConfigError or ForbiddenError; see Parent."""
        self._options = options
        self.parent = Parent(options, "aggregator", self._begin)

    async def _begin(self, welcome: edge_pb2.Welcome, say: Say, lose: Callable[[], None]) -> Summing:
        kafka = config_of(welcome).services.kafka
        if not kafka.carries:
            raise ConfigError("this run keeps no updates in Kafka: set services.kafka.brokers at its leader")
        log = KafkaLog(settings_of(kafka.brokers, self._options.kafka_properties))
        _log.info("joined run %s as aggregator %s", welcome.run_id, self.parent.name)
        return Summing(Member(log, RunLog(log, kafka.topic, welcome.run_id, welcome.key)), lose)


async def serve(options: JoinOptions) -> int:
    """Run one aggregator until the leader says stop or a signal comes; returns the exit code."""
    parent = App(options).parent
    return await until_signalled(parent.follow(), parent.leave)


def run(options: JoinOptions) -> int:
    """Run one aggregator; returns the exit code."""
    return asyncio.run(serve(options))
