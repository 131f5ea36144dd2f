"""`python -m tests.attacks.insider NAME ...`: a learner that does its work, and attacks by what that permits it."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import torch

from learner.app import learn, open_tools
from learner.options import LearnerOptions, parse
from protos import leader_pb2
from tests.attacks.honest import TimedWorker
from tests.attacks.registry import ATTACKS
from tests.attacks.siege import WARM_ROUNDS, Insider, Victim, again, tell_deeds
from utils.console import setup_logging
from utils.errors import program
from utils.trust.credentials import Credentials


class Inside(TimedWorker):
    """A worker that attacks with each order that it has, until it has the next one."""

    victim: Victim
    attack: Insider
    _attacking: asyncio.Task[None] | None = None
    _telling: asyncio.Task[None] | None = None

    def order(self, order: leader_pb2.WorkOrder) -> None:
        """See Worker."""
        super().order(order)
        self._stop()
        if order.round > WARM_ROUNDS and self._connection is not None:
            once = partial(type(self).attack, token=self._connection.token, work_id=order.work_id)
            self._attacking = asyncio.create_task(again(once)(self.victim))
            if self._telling is None:
                self._telling = asyncio.create_task(tell_deeds())

    def _stop(self) -> None:
        if self._attacking is not None:
            self._attacking.cancel()

    async def close(self) -> None:
        """See Worker."""
        self._stop()
        if self._telling is not None:
            self._telling.cancel()
        await super().close()


def _held(options: LearnerOptions) -> Credentials | None:
    if options.certificate is None:
        return None
    assert options.key is not None
    assert options.ca is not None
    files = (options.key, options.certificate, options.ca)
    return Credentials(*(file.read_bytes() for file in files))


@program
def main() -> int:
    """Learn and attack; returns the exit code."""
    name, *flags = sys.argv[1:]
    options = parse(flags, os.environ)
    setup_logging(options.log_format, options.log_level)
    torch.set_num_threads(1)
    Inside.victim = Victim(options.leader, _held(options))
    [Inside.attack] = [attack.insider for attack in ATTACKS if attack.name == name and attack.insider]
    return asyncio.run(learn(options, open_tools(options), None, Inside))


if __name__ == "__main__":
    sys.exit(main())
