"""Renewal: from half its life on a certificate may be replaced, and the channel that shows it ends with a round."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cryptography import x509

from utils.errors import FlockstepError
from utils.trust import pki

_log = logging.getLogger(__name__)
_LATEST = 0.8  # of the second half, after which no commit is waited for
_LOOK_S = 60.0  # the clock may jump, and timers stand still while a machine sleeps
_LEAST_S = 0.1


async def keep_renewed(
    half: float, end: float, renewed: Callable[[], Awaitable[bool]], committed: asyncio.Event
) -> None:
    """Return when a channel that shows this certificate should make place for one that shows a newer one.

    That is after the next commit, or shortly before the old one ends.

    Args:
        half, end: of the certificate's life; unix seconds.
        renewed: gets a newer one, if it can by now; what it raises may pass.
    """
    while (left_s := half - time.time()) > 0 or not await _succeeds(renewed):
        wait_s = left_s if left_s > 0 else max((end - time.time()) / 10, _LEAST_S)
        await asyncio.sleep(min(wait_s, _LOOK_S))
    committed.clear()
    with suppress(TimeoutError):
        async with asyncio.timeout(half + _LATEST * (end - half) - time.time()):
            await committed.wait()


def half_of(certificate: x509.Certificate) -> float:
    """Unix seconds at which half of a certificate's life is over."""
    return (certificate.not_valid_before_utc.timestamp() + pki.ends_at(certificate)) / 2


async def _succeeds(renewed: Callable[[], Awaitable[bool]]) -> bool:
    try:
        return await renewed()
    except FlockstepError as error:
        _log.warning("the certificate is not renewed yet: %s", error)
        return False
