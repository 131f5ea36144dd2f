"""A member of the group that sums the partitions of a run's log: reads, adds, answers; nothing is lost with it."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from typing import TYPE_CHECKING

from leader.update_log.base import InOrder
from leader.update_log.kafka import KafkaLog, is_read_again
from leader.update_log.partition_sum import PartitionSum
from leader.update_log.run_log import RunLog
from utils.errors import NotReadyError

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message, TopicPartition

_log = logging.getLogger(__name__)
_POLL_S = 0.1
_CLOSE_S = 5.0
_TRIES = 3  # to give a sum; each takes as long as Kafka's client goes on
_GROUP = {
    "auto.offset.reset": "earliest",
    "session.timeout.ms": 6000,
    "heartbeat.interval.ms": 1500,
    "topic.metadata.refresh.interval.ms": 2000,  # the topic may not be there yet
    "queued.max.messages.kbytes": 16_384,
    "fetch.wait.max.ms": 50,
}


class Member:
    """Sums those partitions that the group gives it.

    What it has is a function of what stands in them, so others that get them read the same, and come to the same.
    """

    def __init__(self, kafka: KafkaLog, run: RunLog) -> None:
        self._kafka = kafka
        self._run = run
        self._sums: dict[int, PartitionSum] = {}
        self._next: dict[int, int] = {}  # offset by partition
        self._order: defaultdict[int, InOrder] = defaultdict(InOrder)  # by partition
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have `run` return."""
        self._stopping.set()

    def run(self) -> None:
        """Sum until `stop` is called; the group is left then, as far as Kafka is there."""
        consumer = self._kafka.consumer({"group.id": self._run.updates, **_GROUP})
        consumer.subscribe([self._run.updates], on_assign=self._assigned)
        while not self._stopping.is_set():
            message = consumer.poll(_POLL_S)
            if message is not None and not message.error():
                order = self._order[message.partition() or 0]
                if not is_read_again(consumer, message, order):
                    self._take(consumer, message)
        closing = threading.Thread(
            target=consumer.close, daemon=True
        )  # which waits for a broker that is away
        closing.start()
        closing.join(_CLOSE_S)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # All are read again from their last commit: what others have done meanwhile is nobody's to say.
        self._sums.clear()
        self._order.clear()
        mine = sorted(one.partition for one in partitions)
        _log.info("summing partitions %s", ", ".join(map(str, mine)) or "none")

    def _take(self, consumer: Consumer, message: Message) -> None:
        partition, offset = message.partition() or 0, message.offset() or 0
        if partition not in self._sums or offset < self._next[partition]:  # the log has begun anew
            self._sums[partition] = self._run.partition_sum(partition)
        self._next[partition] = offset + 1
        sums = self._sums[partition]
        needed = sums.needed
        for _ in range(_TRIES):  # nobody else answers, and who asks waits long
            try:
                self._run.answer(self._run.follow(sums, partition, offset, message.value() or b""))
                break
            except NotReadyError as error:
                _log.warning("the sum of partition %d can't be given: %s", partition, error)
        if sums.needed != needed:
            self._commit(consumer, partition, sums.needed)

    def _commit(self, consumer: Consumer, partition: int, needed: int) -> None:
        from confluent_kafka import TopicPartition

        consumer.commit(offsets=[TopicPartition(self._run.updates, partition, needed)], asynchronous=True)
