"""Where the leader dials a learner: at the host that it registered from, or where its certificate proves who it is."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Collection
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from leader.config import RunConfig
from leader.learners.registration import name_of
from leader.trust.identities.callers import Caller
from protos import leader_pb2
from utils.errors import IncompatibleError, LimitError, NameTakenError, WireError

_log = logging.getLogger(__name__)
_ADDRESS = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")


class Dialling:
    """Which of the addresses that learners name are dialled: an address is a way into the leader's own network."""

    def __init__(self, config: RunConfig) -> None:
        # Of another PKI nobody has a certificate for the name that is looked for there.
        self._allowed = config.dial_learners and not config.trust.certificate
        self._hosts = [host.strip() for host in config.dial_hosts.split(",")]
        self.own_port = 0  # that the leader listens on
        beside = (config.trust.plain_listen, config.trust.jwt_listen)
        self._most = config.limits.dialled
        self._ports = {int(listen.rpartition(":")[2]) for listen in beside if listen}

    def choose(
        self, info: leader_pb2.LearnerInfo, caller: Caller, taken: Callable[[], Collection[str]]
    ) -> str:
        """HOST:PORT to dial a learner at that registers; "" = nowhere, one that can work so acts by itself.

        `taken` tells at which others are dialled. Raises IncompatibleError, LimitError or NameTakenError.
        """
        if info.control == leader_pb2.CONTROL_SESSION:
            return ""
        try:
            if len(others := taken()) >= self._most:
                raise LimitError(f"{self._most} learners are dialled, no more are (limits.dialled)")
            if (target := self.target(info.network_addr, caller)) in others:
                raise NameTakenError(f"another learner is dialled at {target}; listen elsewhere, or wait")
            return target
        except WireError as error:
            if info.control == leader_pb2.CONTROL_DIALLED:
                raise
            _log.debug("%s is not dialled: %s", name_of(info, caller), error)
            return ""

    def target(self, network_addr: str, caller: Caller) -> str:
        """HOST:PORT to dial a caller at that says that it listens at `network_addr`.

        Raises IncompatibleError where it is not to be dialled.
        """
        if not self._allowed:
            raise IncompatibleError("this leader dials no learners (dial_learners); leave --network-addr out")
        if not _ADDRESS.fullmatch(network_addr):
            raise IncompatibleError(f"{network_addr[:64]!r} is no HOST:PORT that could be dialled")
        host, _, port = network_addr.rpartition(":")
        if caller.role and not caller.serves:
            raise IncompatibleError("this learner has no certificate to be dialled with; join again")
        if not caller.role and host not in self._hosts:
            host = _own_host(host, caller)
        if int(port) in (self.own_port, *self._ports) and _is_here(host):
            raise IncompatibleError(f"{network_addr} is the leader's own address, not a learner's")
        return f"{host}:{port}"


def _own_host(host: str, caller: Caller) -> str:
    """The host of a caller without an identity; a name is taken for that, whatever it resolves to."""
    named, own = _ip(host), _ip(caller.address)
    if own is None or (named not in (None, own) and not named.is_unspecified):
        raise IncompatibleError(
            f"{host} is not where this learner registered from ({caller.address or 'no host'}); at the leader "
            "list it in dial_hosts, or leave --network-addr out"
        )
    return f"[{own}]" if own.version == 6 else str(own)


def _ip(host: str) -> IPv4Address | IPv6Address | None:
    with suppress(ValueError):
        return ip_address(host.strip("[]"))
    return None


def _is_here(host: str) -> bool:
    """Whether this is an address of this machine, or its name; others may be too, but none is looked up."""
    if (ip := _ip(host)) is not None:
        with (
            suppress(OSError),
            socket.socket(socket.AF_INET if ip.version == 4 else socket.AF_INET6) as probe,
        ):
            probe.bind((str(ip), 0))
            return True
    return host.lower().rstrip(".") in ("localhost", socket.gethostname().lower())
