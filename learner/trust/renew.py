"""Renewal: at half its life a certificate is replaced, and the channel that shows the old one ends with a round."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from grpc import aio

from learner.options import LearnerOptions
from learner.trust.identity import Identity
from learner.trust.join import renew
from utils.errors import FlockstepError

_log = logging.getLogger(__name__)
_LATEST = 0.8  # of the second half, after which no commit is waited for
_LOOK_S = 60.0  # the clock may jump, and timers stand still while a machine sleeps
_LEAST_S = 0.1


async def keep_renewed(
    options: LearnerOptions, identity: Identity, channel: aio.Channel, committed: asyncio.Event
) -> None:
    """Renew the identity in time; returns when another channel should take this one's place.

    That is after the next commit, or shortly before the old certificate ends.
    """
    half, end = identity.renew_at, identity.ends_at
    while (left_s := half - time.time()) > 0 or not await _renewed(options, identity, channel):
        wait_s = left_s if left_s > 0 else max((end - time.time()) / 10, _LEAST_S)
        await asyncio.sleep(min(wait_s, _LOOK_S))
    committed.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(half + _LATEST * (end - half) - time.time()):
            await committed.wait()


async def _renewed(options: LearnerOptions, identity: Identity, channel: aio.Channel) -> bool:
    """Whether the leader has renewed it; what stands against that may pass, and is told at the end else."""
    try:
        await renew(options, identity, channel)
    except FlockstepError as error:
        _log.warning("the certificate is not renewed yet: %s", error)
        return False
    return True
