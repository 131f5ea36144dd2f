"""The channel to the leader: encrypted or in the clear; and what a person can do where it fails."""

from __future__ import annotations

import asyncio
import ssl
import time

import grpc
from cryptography import x509
from grpc import aio

from learner.options import LearnerOptions
from utils.errors import FlockstepError, ForbiddenError
from utils.trust import pki
from utils.trust.membership import stranger
from utils.trust.names import TLS_NAME
from utils.wire.rpc import channel_options
from utils.wire.status import ON_THE_WAY

_PROBE_S = 5.0
#: What a leader of a PKI that this learner did not join is known by; others have no name that anybody could choose.
CA_FILE = "CA file"


def open_channel(
    options: LearnerOptions,
    tls: grpc.ChannelCredentials | None = None,
    name: str = TLS_NAME,
    address: str = "",
) -> aio.Channel:
    """A channel to the leader, in the clear without credentials.

    Args:
        name: that the leader's certificate must have, unless options say it; "" = the host that is dialled.
        address: HOST:PORT; "" = that of options.
    """
    return _channel(options, tls, options.server_name or name, address or options.leader)


def open_to_edge(
    options: LearnerOptions, tls: grpc.ChannelCredentials | None, name: str, address: str
) -> aio.Channel:
    """A channel to HOST:PORT, as the leader says it, where the certificate must have this name; "" = the host's."""
    return _channel(options, tls, name, f"dns:///{address}")  # whatever else gRPC may read in a text


def _channel(
    options: LearnerOptions, tls: grpc.ChannelCredentials | None, name: str, target: str
) -> aio.Channel:
    # By a connection of its own a learner is told from others in the same process.
    own = ("grpc.use_local_subchannel_pool", 1)
    settings: tuple[tuple[str, int | str], ...] = (*channel_options(window_bytes=options.window_bytes), own)
    if tls is None:
        return aio.insecure_channel(target, options=settings)
    if name:
        settings = (*settings, ("grpc.ssl_target_name_override", name))
    return aio.secure_channel(target, tls, options=settings)


async def speaks_tls(address: str) -> bool | None:
    """Whether TLS is spoken at HOST:PORT; None where nobody answers."""
    host, _, port = address.rpartition(":")
    whoever = ssl.create_default_context()
    whoever.check_hostname, whoever.verify_mode = False, ssl.CERT_NONE
    whoever.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_PROBE_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=whoever)
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return None
    writer.transport.abort()
    return True


def mismatch(leader: str, *, tls: bool) -> ForbiddenError:
    """What to do where a leader, or only a leader, speaks TLS."""
    if not tls:
        return ForbiddenError(f"{leader} speaks without encryption; if that is meant, add --insecure")
    return ForbiddenError(
        f"leader {leader} asks for an identity: start this learner once with --join TOKEN "
        "(there: python -m leader.trust token)"
    )


async def explained(error: FlockstepError, address: str, known_by: str) -> FlockstepError:
    """What the failure of a channel's first call tells a person; `error` itself if that says it, or may pass.

    Args:
        known_by: what tells the leader from others, such as "token"; "" = nothing, in the clear.
    """
    why = str(error)
    if isinstance(error, ForbiddenError):
        between = f"the gateway in front of {address} refuses this learner: "
        return ForbiddenError(why.replace(ON_THE_WAY, between))
    if "certificate is not yet valid" in why:
        return _too_early(f"the certificate of {address}")
    other_name = "Hostname Verification Check failed" in why
    if other_name and known_by == CA_FILE:
        return ForbiddenError(f"{address} has a certificate of another name; say which with --server-name")
    if other := stranger(error, address, known_by):
        return other
    tls = await speaks_tls(address)
    return error if tls is None or tls == bool(known_by) else mismatch(address, tls=tls)


def check_span(certificate: x509.Certificate, otherwise: str) -> None:
    """Raise ForbiddenError, with what to do `otherwise`, unless this learner's certificate counts now."""
    ends_at = pki.ends_at(certificate)
    if ends_at <= time.time():
        raise ForbiddenError(f"this learner's certificate ended on {_clock(ends_at)}; {otherwise}")
    if certificate.not_valid_before_utc.timestamp() > time.time():
        raise _too_early("this learner's certificate")


def _too_early(what: str) -> ForbiddenError:
    return ForbiddenError(f"{what} is not valid yet: is this machine's clock right ({_clock(time.time())})?")


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
