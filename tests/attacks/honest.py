"""`python -m tests.attacks.honest`: the learner as it is, but training is a pause; it says how long each call took."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from itertools import count

import numpy as np
import torch

from learner.app import learn, open_tools
from learner.options import parse
from learner.training.trainer import Trainer
from learner.training.update import Assignment, Progress, Update
from learner.wire.connection import Connection, Endpoint
from learner.wire.transfer import Download
from learner.wire.whole_update import HeldUpdate
from learner.work.workbench import Workbench
from learner.work.worker import Report, Worker, unheard
from model.task import Examples
from protos import leader_pb2
from utils.console import setup_logging
from utils.errors import BusyError, FlockstepError, UnreachableError, WireError, program
from utils.wire.status import failures_told

TOOK = "Took"  # event of a call that has ended: `what` and `seconds`
UNARY, DOWN, UP = "unary", "download", "upload"
TRAINING_S = 0.2  # of each order
_UNARY_EVERY_S = 0.1
_UNARY_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


class PausingTrainer(Trainer):
    """Answers each order with noise that is its own: who counts twice, or not at all, changes the model's bits."""

    training_s = TRAINING_S

    def run(self, assignment: Assignment, progress: Progress = lambda done, total, rate: None) -> Update:
        """The update; the model that came for it is not looked at."""
        order, examples = assignment.order, len(assignment.examples)
        noise = np.random.default_rng([order.seed, order.first_batch])
        values = noise.standard_normal(self.model.layout.total, np.float32)
        time.sleep(self.training_s)
        return Update(1e-3 * values, examples, examples, 1.0, self.training_s)


class TimedWorker(Worker):
    """A worker that says how long calls take, from the first try to success, pauses and reconnects included."""

    _began: dict[tuple[str, str], float]  # by what and which
    _asking: asyncio.Task[None] | None = None
    _newest: leader_pb2.WorkOrder | None = None

    def _make_bench(self, run: leader_pb2.RunDescription) -> Workbench:
        return Workbench(run, self._tools, self._memory, PausingTrainer)

    def connect(self, connection: Connection, report: Report = unheard) -> asyncio.Future[FlockstepError]:
        """See Worker; asks as well, again and again, as long as it works."""
        if self._asking is None:
            self._began = {}
            self._asking = asyncio.create_task(self._ask())
        return super().connect(connection, report)

    def order(self, order: leader_pb2.WorkOrder, model: bytes = b"") -> leader_pb2.MaskUp | None:
        """See Worker."""
        self._newest = order
        return super().order(order, model)

    async def _inputs_of(self, order: leader_pb2.WorkOrder) -> tuple[Examples, Download]:
        self._begin(DOWN, order.work_id)
        inputs = await super()._inputs_of(order)
        self._end(DOWN, order.work_id)
        return inputs

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        self._begin(UP, held.said.work_id)
        await super()._send(to, held, resume=resume)
        self._end(UP, held.said.work_id)

    async def _ask(self) -> None:
        for number in count():
            self._begin(UNARY, str(number))
            wait_s = await self._asked()
            while wait_s is not None:
                await asyncio.sleep(wait_s)
                wait_s = await self._asked()
            self._end(UNARY, str(number))
            await asyncio.sleep(_UNARY_EVERY_S)

    async def _asked(self) -> float | None:
        """Ask about the work in hand: after how many seconds to ask again; None if the leader has answered."""
        if self._connection is None or self._newest is None:
            return _UNARY_EVERY_S
        request = leader_pb2.UploadRequest(token=self._connection.token, work_id=self._newest.work_id)
        try:
            with failures_told():
                await self._connection.stub.get_upload(request, _UNARY_TIMEOUT_S)
        except BusyError as error:
            return error.retry_after_s
        except UnreachableError:
            return _UNARY_EVERY_S
        except WireError:
            return None
        return None

    def _begin(self, what: str, which: str) -> None:
        self._began.setdefault((what, which), time.monotonic())

    def _end(self, what: str, which: str) -> None:
        seconds = time.monotonic() - self._began.pop((what, which))
        _log.info("%s", what, extra={"event": TOOK, "fields": {"what": what, "seconds": seconds}})

    async def close(self) -> None:
        """See Worker; a call that has got no answer until now is told as well."""
        if self._asking is not None:
            self._asking.cancel()
        for what, which in list(self._began) if self._asking else ():
            self._end(what, which)
        await super().close()


@program
def main() -> int:
    """Learn; returns the exit code."""
    options = parse(sys.argv[1:], os.environ)
    setup_logging(options.log_format, options.log_level)
    torch.set_num_threads(1)
    return asyncio.run(learn(options, open_tools(options), None, TimedWorker))


if __name__ == "__main__":
    sys.exit(main())
