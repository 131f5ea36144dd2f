"""`python -m tests.attacks.insider NAME ...`: a learner that does its work, if slowly, and attacks in the meantime."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial

import torch

from learner.app import learn, open_tools
from learner.options import LearnerOptions, parse
from learner.wire.connection import Endpoint
from learner.wire.whole_update import HeldUpdate
from protos import leader_pb2
from tests.attacks.honest import PausingTrainer, TimedWorker
from tests.attacks.registry import ATTACKS
from tests.attacks.siege import INSIDER_S, NOTHING, WARM_ROUNDS, Insider, Victim, again, tell_deeds
from utils.console import setup_logging
from utils.errors import program
from utils.trust.credentials import Credentials


class Inside(TimedWorker):
    """A worker that attacks with each order that it has, until it sends its update."""

    victim: Victim
    attack: Insider | None = None
    _attacking: asyncio.Task[None] | None = None
    _telling: asyncio.Task[None] | None = None

    def order(self, order: leader_pb2.WorkOrder, model: bytes = b"") -> leader_pb2.MaskUp | None:
        """See Worker."""
        answer = super().order(order, model)
        self._stop()
        attack = type(self).attack
        if attack is not None and order.round > WARM_ROUNDS and self._connection is not None:
            once = partial(attack, token=self._connection.token, work_id=order.work_id)
            self._attacking = asyncio.create_task(again(once)(self.victim))
            if self._telling is None:
                self._telling = asyncio.create_task(tell_deeds())
        return answer

    async def _send(self, to: Endpoint, held: HeldUpdate, *, resume: bool) -> None:
        self._stop()
        await super()._send(to, held, resume=resume)

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
    PausingTrainer.training_s = INSIDER_S
    if name != NOTHING:
        [Inside.attack] = [attack.insider for attack in ATTACKS if attack.name == name]
    return asyncio.run(learn(options, open_tools(options), None, Inside))


if __name__ == "__main__":
    sys.exit(main())
