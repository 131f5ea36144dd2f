"""Publishing versions: each state's model, as a change of the one before too, served from then on."""

from __future__ import annotations

from leader.config import RunConfig
from leader.global_model.down_link import DownLink
from leader.global_model.versions import ModelVersion, VersionStore
from leader.optimizers.scaffold import CONTROL
from leader.runtime import Host
from leader.state import RunState
from model.layout import Layout

_OLD_VERSIONS = 4  # that an asynchronous run serves at most; work from older ones is given out anew


class Publisher:
    """Makes versions of the run's states and serves them."""

    def __init__(self, config: RunConfig, layout: Layout, host: Host) -> None:
        older = min(_OLD_VERSIONS, config.buffer.max_staleness) if config.buffer.size else 0
        self.versions = VersionStore(layout, config.limits.chunk_bytes, older)
        self._down = DownLink(config, layout)
        self._recalled_bytes = config.limits.upload_bytes
        self._with_control = config.train.control_variates
        self._host = host

    async def publish(
        self, state: RunState, before: RunState | None = None, *, prepare: bool = True
    ) -> RunState:
        """Serve the state's model, as a change of that of `before` too; the state, with what learners have.

        Where learners got the model piece by piece there is nothing to `prepare`: it is encoded only if
        somebody asks for it.
        """
        served, version = await self._host.compute(self._make_version, state, before, prepare)
        self.versions.publish(version)
        return served

    def recall(self, state: RunState) -> None:
        """Serve an older state's model too, until the next one is published; after a restart, newest first."""
        self.versions.recall(self._make_version(state, None, False)[1], self._recalled_bytes)

    def _make_version(
        self, state: RunState, before: RunState | None, prepare: bool
    ) -> tuple[RunState, ModelVersion]:
        state, change = self._down.advance(before, state) if before else (state, None)
        control = state.optimizer.get(CONTROL) if self._with_control else None
        version = self.versions.encode(state.version, state.served, control, change)
        return state, version.prepared() if prepare else version
