"""`python -m tests.integration.resending_learner`: the learner as it is, but it sends every update too often.

Each update goes to the leader twice, and once more in the next round; the log tells the answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import torch

from learner.app import learn, open_tools
from learner.options import parse
from learner.wire.transfer import push
from learner.wire.whole_update import HeldUpdate
from learner.work.worker import Worker
from utils import faults
from utils.console import setup_logging
from utils.errors import WireError

_log = logging.getLogger(__name__)


class ResendingWorker(Worker):
    """Sends the update before, then its own, then its own again."""

    _before: HeldUpdate | None = None

    async def _send(self, held: HeldUpdate, *, resume: bool) -> None:
        if self._before is not None:
            await self._send_again("before", self._before)
        await super()._send(held, resume=resume)
        self._before = held
        await self._send_again("counted", held)

    async def _send_again(self, what: str, held: HeldUpdate) -> None:
        connection = self._connected()
        said = {"what": what, "round": held.round, "refusal": "", "message": ""}
        try:
            await push(connection.stub, connection.token, held, connection.run.chunk_bytes)
        except WireError as error:
            said |= {"refusal": type(error).__name__, "message": str(error)}
        _log.info("sent again", extra={"event": "SentAgain", "fields": said})


def main() -> int:
    """Take part until the leader says stop; returns the exit code."""
    options = parse(sys.argv[1:], os.environ)
    faults.arm(os.environ)
    setup_logging(options.log_format, options.log_level)
    torch.set_num_threads(options.threads)
    return asyncio.run(learn(options, open_tools(options), None, ResendingWorker))


if __name__ == "__main__":
    sys.exit(main())
