"""A log in Kafka, by librdkafka: it is told that its records come once or more, and ours say which they are."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leader.update_log.base import Entry, InOrder
from leader.update_log.records import MOST_BYTES
from utils.errors import ConfigError, NotReadyError
from utils.wire.rpc import is_loopback

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message
    from confluent_kafka.admin import AdminClient

_TIMEOUT_S = 10.0  # for a call
_POLL_S = 0.1
_CLOSE_S = 5.0
_QUIET = logging.getLogger(
    f"{__name__}.client"
)  # of librdkafka, which says a line for each vain try to connect
_QUIET.setLevel(logging.CRITICAL)
_COMMON = {"reconnect.backoff.max.ms": 5000, "log.connection.close": False, "logger": _QUIET}
_PRODUCER = {
    "linger.ms": 5,
    "delivery.timeout.ms": int(1000 * _TIMEOUT_S),
    "message.max.bytes": MOST_BYTES,
    "queue.buffering.max.kbytes": 65_536,
}
_READER = {
    "group.id": "flockstep",  # which it never joins
    "auto.offset.reset": "earliest",  # of what is there, where the log has begun anew
    "queued.max.messages.kbytes": 8192,
    "fetch.wait.max.ms": 20,
}


def settings_of(brokers: str, properties: Path | None) -> dict[str, Any]:
    """librdkafka's settings.

    Raises ConfigError where its package is missing, the file can't be read, or more than this machine would be
    spoken to unencrypted.
    """
    try:
        import confluent_kafka  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"Kafka needs a package: pip install 'flockstep[kafka]' ({error})") from error
    try:
        lines = properties.read_text(encoding="utf-8").splitlines() if properties else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file of Kafka's properties can't be read: {error}") from None
    told = (line.partition("=") for line in lines if line.strip() and not line.lstrip().startswith("#"))
    settings = {"bootstrap.servers": brokers, **{key.strip(): text.strip() for key, _, text in told}}
    encrypted = settings.get("security.protocol", "").upper() in ("SSL", "SASL_SSL")
    if not encrypted and not all(map(is_loopback, settings["bootstrap.servers"].split(","))):
        raise ConfigError(
            "services.kafka.brokers: it leaves this machine unencrypted; set security.protocol to SSL or SASL_SSL in "
            "the file of services.kafka.properties (of an edge or aggregator: --kafka-properties)"
        )
    return settings


class KafkaLog:
    """UpdateLog: a producer, and a consumer for each scan. One thread reads, any may write.

    Raises ConfigError for settings that librdkafka does not take.
    """

    def __init__(self, settings: Mapping[str, Any], retention_s: int = 86_400) -> None:
        from confluent_kafka import KafkaException, Producer

        self._settings = {**_COMMON, **settings}
        self._retention_s = retention_s
        try:
            self._producer = Producer({**_PRODUCER, **self._settings, "acks": "all"})
        except KafkaException as error:
            raise ConfigError(f"Kafka's client refuses its settings: {error.args[0].str()}") from None
        self._reader: Consumer | None = None

    def make(self, topics: Mapping[str, int]) -> None:
        """See UpdateLog."""
        from confluent_kafka import KafkaError, KafkaException
        from confluent_kafka.admin import AdminClient
        from confluent_kafka.cimpl import NewTopic

        kept = {"retention.ms": str(1000 * self._retention_s)}
        wanted = [NewTopic(name, partitions, config=kept) for name, partitions in topics.items()]
        admin = AdminClient(self._settings)  # which must live until it has answered
        for name, future in admin.create_topics(wanted, request_timeout=_TIMEOUT_S).items():
            try:
                future.result(2 * _TIMEOUT_S)
            except (KafkaException, TimeoutError) as error:
                if not error.args or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise NotReadyError(f"Kafka does not make the topic {name}: {_why(error)}") from None
                self._grow(admin, name, topics[name])

    def _grow(self, admin: AdminClient, topic: str, partitions: int) -> None:
        """Have as many partitions where a topic is there: a run may be resumed with more."""
        from confluent_kafka import KafkaException
        from confluent_kafka.cimpl import NewPartitions

        try:
            there = admin.list_topics(topic, timeout=_TIMEOUT_S).topics[topic].partitions
            if len(there) < partitions:
                more = [NewPartitions(topic, partitions)]
                admin.create_partitions(more, request_timeout=_TIMEOUT_S)[topic].result(2 * _TIMEOUT_S)
                self._producer.list_topics(topic, timeout=_TIMEOUT_S)  # it may know the topic as it was
        except (KafkaException, TimeoutError) as error:
            raise NotReadyError(
                f"Kafka does not give the topic {topic} {partitions} partitions ({_why(error)}): resume the "
                "run with as many in services.kafka.partitions as it had"
            ) from None

    def put(self, topic: str, entries: Iterable[Entry]) -> list[int]:
        """See UpdateLog."""
        found: dict[int, int | str] = {}
        count = 0
        for count, entry in enumerate(entries, 1):
            self._send(topic, entry, found, count)
        while len(found) < count:  # librdkafka ends each within its time
            self._producer.poll(_POLL_S)
        if failed := [why for why in found.values() if isinstance(why, str)]:
            raise NotReadyError(f"Kafka did not take {len(failed)} of {count} records: {failed[0]}")
        return [int(found[number]) for number in range(1, count + 1)]

    def _send(self, topic: str, entry: Entry, found: dict[int, int | str], number: int) -> None:
        def delivered(error: Any, message: Message) -> None:
            found[number] = error.str() if error is not None else message.offset() or 0

        from confluent_kafka import KafkaException

        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                self._producer.produce(topic, entry.value, entry.key, entry.partition, on_delivery=delivered)
            except KafkaException as error:  # such as for a partition that it knows not to be there
                raise NotReadyError(f"Kafka takes no record: {error.args[0].str()}") from None
            except BufferError:  # full of what Kafka has not taken yet
                if time.monotonic() > deadline:
                    raise NotReadyError("Kafka takes nothing") from None
                self._producer.poll(_POLL_S)
            else:
                self._producer.poll(0)
                return

    def read(self, topic: str, partition: int, offset: int) -> bytes:
        """See UpdateLog."""
        if self._reader is None:
            self._reader = self.consumer(_READER)
        self._assign(self._reader, topic, partition, offset)
        message = self._reader.poll(_TIMEOUT_S)
        if message is None or message.error() or message.offset() != offset:
            raise NotReadyError(f"Kafka does not give record {offset} of {topic}, partition {partition}")
        return message.value() or b""

    def scan(self, topic: str, partition: int, offset: int) -> Iterator[tuple[int, bytes] | None]:
        """See UpdateLog."""
        consumer, order = self.consumer(_READER), InOrder()
        self._assign(consumer, topic, partition, offset)
        try:
            while True:
                message = consumer.poll(_POLL_S)
                if message is None or message.error() or is_read_again(consumer, message, order):
                    yield None
                else:
                    yield message.offset() or 0, message.value() or b""
        finally:
            consumer.close()

    def trim(self, topic: str, offsets: Mapping[int, int]) -> None:
        """See UpdateLog."""
        from confluent_kafka import KafkaException, TopicPartition
        from confluent_kafka.admin import AdminClient

        wanted = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        admin = AdminClient(self._settings)
        try:
            for future in admin.delete_records(wanted, request_timeout=_TIMEOUT_S).values():
                future.result(2 * _TIMEOUT_S)
        except (KafkaException, TimeoutError) as error:
            raise NotReadyError(f"Kafka does not delete records: {_why(error)}") from None

    def consumer(self, more: Mapping[str, Any]) -> Consumer:
        """A consumer with these settings, where the properties say nothing else; it commits what it is told to."""
        from confluent_kafka import Consumer

        return Consumer({**more, **self._settings, "enable.auto.commit": False})

    def _assign(self, consumer: Consumer, topic: str, partition: int, offset: int) -> None:
        from confluent_kafka import TopicPartition

        consumer.assign([TopicPartition(topic, partition, offset)])

    def close(self) -> None:
        """Let go of the connections."""
        self._producer.flush(_CLOSE_S)
        if self._reader is not None:
            self._reader.close()


def _why(error: Exception) -> str:
    """What librdkafka says; nothing where it has not said so in twice the time of a call."""
    return str(error.args[0].str()) if error.args else "no answer"


def is_read_again(consumer: Consumer, message: Message, order: InOrder) -> bool:
    """Whether the consumer goes back, as a record before this one was passed over."""
    from confluent_kafka import TopicPartition

    back = order.passed_over(message.offset() or 0, time.monotonic())
    if back is None:
        return False
    consumer.seek(TopicPartition(message.topic() or "", message.partition() or 0, back))
    return True
