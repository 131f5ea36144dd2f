"""The record of a run in a topic of Kafka, a row a record, for whoever subscribes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from leader.config.sections.operation.kafka import KafkaConfig
from leader.services.record.file import Row
from leader.update_log.base import Entry
from leader.update_log.kafka import KafkaLog, settings_of


class KafkaFollower:
    """Follower: each row as JSON under the key RUN:TABLE:KEY; of those with one key the last one counts.

    Raises ConfigError.
    """

    name = "kafka"

    def __init__(self, config: KafkaConfig, run_id: str) -> None:
        self._log = KafkaLog(settings_of(config.brokers, config.properties))
        self._topic = config.events
        self._run_id = run_id

    def send(self, rows: Sequence[Row]) -> None:
        """See Follower; raises NotReadyError."""
        self._log.put(self._topic, [self._entry(row) for row in rows])

    def _entry(self, row: Row) -> Entry:
        told = {"run": self._run_id, "table": row.table, "seq": row.seq, **row.values}
        key = f"{self._run_id}:{row.table}:{row.key}"
        return Entry(-1, key.encode(), json.dumps(told).encode())

    def close(self) -> None:
        """See Follower."""
        self._log.close()
