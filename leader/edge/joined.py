"""What an edge knows of the run from its Welcome: configuration, layout, and how updates are read and added."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import ValidationError

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere, Mergeable
from leader.aggregation.decoding import Decoder, UpdateReader
from leader.aggregation.norms import squared_norm
from leader.aggregation.weighting import make_weighting
from leader.config import RunConfig
from leader.distributed.messages import layout_of, scale_of
from leader.distributed.ticket import unseal
from leader.secagg.masked_sum import MaskedSum, MaskedUpdates
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.logged_updates import LoggedUpdates, LoggedWords
from leader.update_log.run_log import RunLog, opened_plan
from model.fragments import Fragments
from protos import edge_pb2, leader_pb2, log_pb2
from utils.errors import IncompatibleError, LimitError, PayloadError
from utils.secagg.ring import WORDS
from utils.wire.payload import Payload

_KEY_BYTES = 32


def config_of(welcome: edge_pb2.Welcome) -> RunConfig:
    """The run's configuration; raises IncompatibleError where this release does not know all of it."""
    try:
        return RunConfig.model_validate_json(welcome.config)
    except ValidationError as error:
        raise IncompatibleError(
            f"the leader's configuration has {error.error_count()} keys that this release does not know; install "
            "the same release on both"
        ) from None


def open_log(welcome: edge_pb2.Welcome, config: RunConfig, properties: Path | None) -> RunLog:
    """The log of a run that has one; raises ConfigError."""
    kafka = config.services.kafka
    log = KafkaLog(settings_of(kafka.brokers, properties))
    return RunLog(log, kafka.topic, welcome.run_id, welcome.key)


class Joined:
    """One run, as its edges know it; raises PayloadError or IncompatibleError for one that can't be served."""

    def __init__(self, welcome: edge_pb2.Welcome, kafka_properties: Path | None = None) -> None:
        self.welcome = welcome
        if not (welcome.token and len(welcome.key) >= _KEY_BYTES and 0 < welcome.heartbeat_s < math.inf):
            raise PayloadError(
                "a welcome without a token, a key or a heartbeat; install the same release on both"
            )
        self.config = config = config_of(welcome)
        self._log = open_log(welcome, config, kafka_properties) if config.services.kafka.carries else None
        self.layout = layout_of(welcome.layout)
        self.masked = config.secagg.mode != "off"
        self.reader: UpdateReader = (
            MaskedUpdates(
                self.layout,
                config.secagg.bits,
                metrics=len(config.summed_scores),
                tells_clipping=config.dp.tells_clipping,
            )
            if self.masked
            else Decoder(config.codec, self.layout, config.streaming.fragments, config.limits.header_bytes)
        )
        self._fragments = Fragments(self.layout, config.streaming.fragments)
        self._weighting = make_weighting(config)
        self._buffers = {entry.name for entry in self.layout.buffers}

    def ticket(self, sealed: bytes) -> edge_pb2.Ticket:
        """What a caller may do here; raises ForbiddenError or EndedError."""
        return unseal(self.welcome.key, sealed, self.welcome.run_id)

    def ticket_of(self, sealed: bytes, header: leader_pb2.UpdateHeader) -> edge_pb2.Ticket:
        """The ticket of an update; raises ForbiddenError, EndedError, PayloadError or LimitError."""
        ticket = self.ticket(sealed)
        if header.work_id != ticket.work_id:
            raise PayloadError("the update is for other work than its ticket")
        if not self.masked and not 0 < header.examples <= ticket.examples:
            raise LimitError(f"update claims {header.examples} examples, its part has {ticket.examples}")
        return ticket

    def begin(self, opened: edge_pb2.Open) -> Mergeable:
        """An empty sum; raises PayloadError for one that can't be made."""
        scale, shared = scale_of(opened.scale), self._fragments.of(opened.round)
        log = self._log if opened.log else None
        if self.masked:
            if opened.masking.bits not in WORDS:
                raise PayloadError(f"a sum under masks of {opened.masking.bits} bits")
            noise = opened.noise if opened.HasField("noise") else None
            if log is None:
                return MaskedSum(shared, opened.masking, scale, noise)
            return LoggedWords(shared, opened.masking, scale, noise).to(log, self._plan(opened))
        if log is None:
            return Aggregate(shared, scale, self._weighting)
        return LoggedUpdates(shared, scale, self._weighting).to(log, self._plan(opened))

    def _plan(self, opened: edge_pb2.Open) -> log_pb2.LogPlan:
        partitions, aggregate = self.config.services.kafka.partitions, self.config.aggregate
        return opened_plan(opened, self._fragments.of(opened.round), partitions, aggregate)

    def note(self, opened: edge_pb2.Open, receipt: edge_pb2.Receipt) -> None:
        """Have a receipt in the log, where updates are; raises NotReadyError where that can't be reached."""
        if self._log is not None:
            self._log.note(log_pb2.LogReceipt(plan=self._plan(opened), receipt=receipt))

    def contribution(
        self, uid: bytes, ticket: edge_pb2.Ticket, header: leader_pb2.UpdateHeader, payload: Payload
    ) -> Contribution:
        """An update as it is added here; raises PayloadError or LimitError for bytes that no codec has written."""
        decoded = self.reader.decode(payload)
        needs_norm = self._weighting.needs_norm and not self.masked
        norm = squared_norm(self._fragments.of(ticket.round), decoded) if needs_norm else 0.0
        buffers = any(tensor.name in self._buffers for tensor in decoded.manifest.tensors)
        return contribution_of(ticket, header, decoded, Elsewhere(uid, norm, buffers))


def contribution_of(
    ticket: edge_pb2.Ticket, header: leader_pb2.UpdateHeader, payload: Payload, elsewhere: Elsewhere
) -> Contribution:
    """What an update adds, whose part is its uid in hex."""
    start_loss = header.start_loss if header.HasField("start_loss") else float("nan")
    return Contribution(
        elsewhere.uid.hex(),
        header.examples or 1,
        payload,
        header.loss,
        ticket.local_steps,
        start_loss,
        elsewhere=elsewhere,
    )
