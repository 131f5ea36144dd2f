"""What serves and trains one run, wired up: the workforce, the coordinator and the service; no disk and no port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from leader.aggregation.compiled_add import compile_add
from leader.config import RunConfig, ServicesConfig
from leader.config.yaml_file import dump_config
from leader.data.dataset import Data
from leader.distributed.contract import SERVICE as EDGE_SERVICE
from leader.distributed.hub import Hooks, Hub
from leader.distributed.messages import layout_message, revoked_message
from leader.distributed.service import edge_handler
from leader.distributed.ticket import key_of
from leader.dp.privacy import Privacy
from leader.events import EdgeLeft, EdgeServes, EventStream, UpdatesLost
from leader.global_model.initial import Origin
from leader.learners.workforce import Workforce
from leader.rpc.agreement import describe
from leader.rpc.receipts import Receipts
from leader.rpc.refusal_counts import Refusals
from leader.rpc.service import LeaderService
from leader.rpc.uploads import Uploads
from leader.runtime import Host
from leader.state import RunState
from leader.training.branches import Tree
from leader.training.coordinator import Coordinator
from leader.training.engine import Engine
from leader.training.exchanges.base import ExchangeKind
from leader.training.exchanges.kinds import choose_kind
from leader.trust.access.guard import Guard
from leader.trust.access.listeners import Ports
from leader.trust.admission import Admission
from leader.trust.audit.run import RunAudit
from leader.trust.identities.callers import Anybody, Caller
from leader.update_log.kafka import KafkaLog, settings_of
from leader.update_log.log_sums import LogSums
from leader.update_log.recall import Recall
from leader.update_log.run_log import RunLog
from model.fragments import Fragments
from protos import edge_pb2
from utils import faults
from utils.errors import ForbiddenError, WireError
from utils.secagg.signatures import check_signed
from utils.wire.rpc import SERVICE

#: What an edge has no use for.
_SERVICES: Any = {name: True for name in ServicesConfig.model_fields if name != "kafka"}
_NOT_TOLD: Any = {
    "http": True,
    "trust": True,
    "web": True,
    "services": {**_SERVICES, "kafka": {"properties": True}},
}


class Wiring:
    """One run from `state` on; `save` writes its checkpoints, and robust rules keep updates under `spool`."""

    def __init__(
        self,
        config: RunConfig,
        origin: Origin,
        state: RunState,
        data: Data,
        *,
        save: Callable[[RunState], object] = lambda state: None,
        spool: Path | None = None,
        host: Host | None = None,
        kind: Callable[[Engine], ExchangeKind] = choose_kind,
        privacy: Privacy | None = None,
    ) -> None:
        self.config = config
        self.data = data
        self.layout = origin.layout
        self.events = EventStream()
        self.refusals = Refusals(self.events)
        self.workforce = self._open_workforce(state)
        self.hub: Hub | None = None
        key = key_of(state.secret)
        recall = Recall(state.run_id, key) if state.seats is not None else None  # a leader was before
        host = host or Host()
        host.arithmetic.submit(compile_add, self.layout.total)  # before there is anything to add
        branches = self._open_branches(state, host, key, recall) if config.edges.listen else None
        run = config, self.layout, self.workforce, state.secret
        self._engine = Engine(*run, spool=spool, host=host, privacy=privacy, branches=branches)
        self.workforce.clock = self._engine.host.clock
        self.workforce.ask_spent(lambda: self._engine.privacy.broke)
        self._save_as_told = save
        self._run_audit: RunAudit | None = None
        self.coordinator = Coordinator(self._engine, state, self.events, self._save, kind)
        self._receipts = Receipts(state.run_id, key, self.workforce, self.coordinator.desk, recall)
        self.coordinator.desk.answered = self._receipts.answered
        self.description = describe(config, origin, run_id=state.run_id, classes=data.classes)

    def _open_workforce(self, state: RunState) -> Workforce:
        train = self.data.train
        return Workforce(
            self.config,
            classes=self.data.classes,
            labels=train.labels if train else None,
            groups=train.groups if train else None,
            seats=state.seats,
            events=self.events,
            frozen=self.layout.frozen,
        )

    def _open_branches(self, state: RunState, host: Host, key: bytes, recall: Recall | None) -> Tree:
        """The edges that may come."""

        def welcome() -> edge_pb2.Welcome:
            return edge_pb2.Welcome(
                run_id=state.run_id,
                key=key,
                config=self.config.model_dump_json(by_alias=True, exclude=_NOT_TOLD),
                layout=layout_message(self.layout),
                heartbeat_s=self.config.cohort.lease_s / 2,
            )

        async def submit(receipt: edge_pb2.Receipt) -> None:
            await self._receipts.take(receipt)

        self.hub = hub = Hub(
            welcome,
            submit,
            silent_s=self.config.cohort.lease_s,
            sum_s=self.config.edges.sum_timeout_s,
            hooks=Hooks(
                serves=lambda name, addresses: self.events.publish(EdgeServes(name, addresses, hub.serving)),
                left=lambda name: self.events.publish(EdgeLeft(name, hub.serving)),
                lost=lambda uids: tree.lose(uids),
                came=lambda size: self.coordinator.traffic.came(size),
            ),
        )

        def told(parts: tuple[str, ...]) -> None:
            self.events.publish(UpdatesLost(parts))
            self.workforce.announce()

        log = self._open_log(state.run_id, key, recall) if self.config.services.kafka.carries else None
        tree = Tree(self.hub, state.run_id, key, host, told, log, recall)
        return tree

    def _open_log(self, run_id: str, key: bytes, recall: Recall | None) -> LogSums:
        """The sums of what edges write into Kafka; raises ConfigError."""
        kafka = self.config.services.kafka
        log = KafkaLog(settings_of(kafka.brokers, kafka.properties), kafka.retention_s)
        return LogSums(
            RunLog(log, kafka.topic, run_id, key),
            Fragments(self.layout, self.config.streaming.fragments),
            kafka.partitions,
            self.config.edges.sum_timeout_s,
            kafka.keep_rounds,
            recall,
            self.config.aggregate,
        )

    def edge_handlers(self, service: LeaderService) -> Mapping[str, grpc.GenericRpcHandler]:
        """What edges may call, by the services' names."""
        hub = self.hub
        assert hub is not None
        return {
            SERVICE: service.handler_for_edges(),
            EDGE_SERVICE: edge_handler(lambda: hub, service.refuse),
        }

    def admission(self) -> Admission | None:
        """What lets callers in, where this run is secure; opens its folder. Raises ConfigError."""
        if not self.config.secure:
            return None
        admission = Admission(self.config, self._refused)
        admission.guard.learners = self.workforce.identities
        self.workforce.dial = admission.dial
        self._engine.signed = partial(check_signed, admission.ca)
        self._run_audit = RunAudit(admission.audit, dump_config(self.config))
        self.events.subscribe(self._run_audit.on_event)
        self.workforce.audit_head = lambda: admission.audit.head
        traffic = self.coordinator.traffic
        traffic.up_quota, traffic.down_quota = admission.guard.up_quota, admission.guard.down_quota
        if (hub := self.hub) is not None:
            admission.revoked = lambda revocations: hub.revoke(revoked_message(revocations))
            admission.revoked(admission.revocations)
        return admission

    def plain_ports(self) -> Ports:
        """How a run without trust listens."""
        guard = Guard(Anybody(), self.config.limits, self._refused)
        guard.learners = self.workforce.identities
        return Ports(self.config, guard, 1 + bool(self.config.http.listen))

    def plain_edge_ports(self) -> Ports:
        """How a run without trust listens for edges."""
        return Ports(self.config, Guard(Anybody(), self.config.limits, self._refused), key="edges.listen")

    @property
    def audit_head(self) -> str:
        """The audit's newest line as N:HASH; "" in a run without trust."""
        head = self.workforce.audit_head()
        return str(head) if head.number else ""

    def _save(self, state: RunState) -> object:
        if self._run_audit is not None:
            self._run_audit.saving(state.version, state.result)
            state = replace(state, audit_head=self.audit_head)
        return self._save_as_told(state)

    def _refused(self, method: str, error: WireError, caller: Caller) -> None:
        member = self.workforce.of(caller)
        self.refusals.note(method, error, member.learner_id if member else None)

    def turn_out(self, check: Callable[[Caller], None]) -> None:
        """What those had to do whom `check` refuses goes to others: another may go by their name by now."""
        for member in [member for member in self.workforce if member.caller.known]:
            try:
                check(member.caller)
            except ForbiddenError:
                self.workforce.leave(member, "revoked")

    def uploads(self) -> Uploads:
        """What reads updates under the limits of the run."""
        coordinator = self.coordinator
        return Uploads(
            self._engine.updates,
            self.config.limits,
            coordinator.traffic,
            coordinator.desk.is_open,
            lambda: faults.reach("leader.uploading", coordinator.state.round + 1),
        )

    def service(self) -> LeaderService:
        """What answers the RPCs."""
        return LeaderService(
            self.config,
            self.description,
            self.coordinator,
            self.uploads(),
            self.data.train,
            self.events,
            self.refusals,
        )
