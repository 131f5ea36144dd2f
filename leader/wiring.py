"""What serves and trains one run, wired up: the workforce, the coordinator and the service; no disk and no port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leader.config import RunConfig
from leader.data.dataset import Data
from leader.events import EventStream
from leader.global_model.initial import Origin
from leader.learners.workforce import Workforce
from leader.rpc.agreement import describe
from leader.rpc.refusal_counts import Refusals
from leader.rpc.service import LeaderService
from leader.rpc.uploads import Uploads
from leader.runtime import Host
from leader.state import RunState
from leader.training.coordinator import Coordinator
from leader.training.engine import Engine
from leader.training.exchanges.base import ExchangeKind
from leader.training.exchanges.kinds import choose_kind
from utils import faults


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
    ) -> None:
        self.config = config
        self.data = data
        self.layout = origin.layout
        self.events = EventStream()
        self.refusals = Refusals(self.events)
        self.workforce = self._open_workforce(state)
        self._engine = Engine(config, self.layout, self.workforce, state.run_id, spool=spool, host=host)
        self.coordinator = Coordinator(self._engine, state, self.events, save, kind)
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
        )

    def uploads(self) -> Uploads:
        """What reads updates under the limits of the run."""
        coordinator = self.coordinator
        return Uploads(
            self.layout,
            self._engine.decoder,
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
