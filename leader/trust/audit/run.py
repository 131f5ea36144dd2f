"""What a run leaves in the audit: its beginning and end, who came and went, what was refused, each commit."""

from __future__ import annotations

import hashlib
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from leader import events
from leader.trust.audit.chain import Audit
from leader.trust.identities.callers import _CALLER, anonymous
from utils.vector import Vector


class RunAudit:
    """Event subscriber that records the run whose configuration is `config`, as in its config.yaml."""

    def __init__(self, audit: Audit, config: str) -> None:
        self._audit = audit
        self._config_sha256 = hashlib.sha256(config.encode()).hexdigest()
        self._names: dict[int, str] = {}  # of learners, by id
        self._accepted: dict[str, str] = {}  # learners of updates that may be in the next sum, by part
        self._counted: set[str] = set()  # whose updates are in sums of the open round
        self._hashing = ThreadPoolExecutor(1, "audit-hash")
        self._saved: Future[tuple[int, str]]  # version and SHA-256 of the weights that were written last

    def saving(self, version: int, vector: Vector) -> None:
        """A state with these weights, (total,), is being written: the next commit tells their hash."""
        self._saved = self._hashing.submit(lambda: (version, _sha256(vector)))  # while the disk is busy

    def on_event(self, event: events.Event) -> None:
        """Record what is told, and if it comes from a call, whose call that was."""
        record = self._audit.record
        caller = _CALLER.get(anonymous(""))
        match event:
            case events.RunStarted(run_id=run, model=model, address=address, resumed_round=resumed):
                config = self._config_sha256
                record("start", run=run, model=model, address=address, resumed=resumed, config_sha256=config)
            case events.LearnerJoined(learner_id=learner, name=name, control=control):
                self._names[learner] = name
                record("registered", who=name, role=caller.role, ip=caller.address, control=control)
            case events.LearnerLeft(name=name, reason=reason):
                record("left", who=name, reason=reason)
            case events.CallRefused(reason=reason, method=method, kind=kind, suppressed=more):
                who = caller.name or self._names.get(event.learner_id or 0, "")
                whose = {"who": who, "role": caller.role, "ip": caller.address}
                record("refused", **whose, method=method, kind=kind, reason=reason, suppressed=more)
            case events.RoundStarted():
                self._accepted.clear()
                self._counted.clear()
            case events.UpdateAccepted(learner_id=learner, part=part):
                self._accepted[part] = self._names.get(learner, str(learner))
            case events.StepApplied(parts=parts):
                # What a leader before has accepted is known by its part alone.
                self._counted.update(self._accepted.get(part, part) for part in parts or ())
                self._accepted.clear()
            case events.RoundCommitted(round=round_):
                version, weights = self._saved.result()
                learners = sorted(self._counted)
                record("committed", round=round_, version=version, weights_sha256=weights, learners=learners)
            case events.RunFinished(round=round_, reason=reason, stopped_early=early):
                record("stop", round=round_, reason=reason or early)


def _sha256(vector: Vector) -> str:
    return hashlib.sha256(np.ascontiguousarray(vector).data).hexdigest()
