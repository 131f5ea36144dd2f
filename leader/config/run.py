"""The whole configuration of a run: frozen, typed, checked before anything starts."""

from __future__ import annotations

from pydantic import model_validator

from leader.config.rules import problems
from leader.config.run_fields import RunFields
from utils.settings.fields import is_address


class RunConfig(RunFields):
    """One run of the leader: settings that make sense together."""

    @model_validator(mode="after")
    def _together(self) -> RunConfig:
        if not is_address(self.listen):
            raise ValueError(f"listen is {self.listen!r}; it must be HOST:PORT with a port from 0 to 65535")
        if found := problems(self):
            raise ValueError("; ".join(found))
        return self
