"""Where the leader dials a learner: at the host that it registered from, or where its certificate proves who it is."""

from __future__ import annotations

import ipaddress
import re
import socket

from leader.config import RunConfig
from leader.trust.callers import Caller
from utils.errors import IncompatibleError

_ADDRESS = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")
Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class Dialling:
    """Which of the addresses that learners name are dialled: an address is a way into the leader's own network."""

    def __init__(self, config: RunConfig) -> None:
        self._allowed = config.dial_learners
        self._hosts = [host.strip() for host in config.dial_hosts.split(",") if host.strip()]
        trust = config.trust
        listening = (config.listen, trust.jwt_listen, trust.plain_listen)
        self.own_ports = {int(address.rpartition(":")[2]) for address in listening if address}

    def target(self, network_addr: str, caller: Caller) -> str:
        """HOST:PORT to dial a caller at that says that it listens at `network_addr`.

        Raises IncompatibleError where it is not to be dialled.
        """
        if not self._allowed:
            raise IncompatibleError("this leader dials no learners (dial_learners); leave --network-addr out")
        if not _ADDRESS.fullmatch(network_addr):
            raise IncompatibleError(f"{network_addr[:64]!r} is no HOST:PORT that could be dialled")
        host, _, port = network_addr.rpartition(":")
        if caller.known and not caller.serves:
            raise IncompatibleError("this learner's certificate is not one to be dialled with; join again")
        if not caller.known and host not in self._hosts:
            host = self._host_of(host, caller)
        if int(port) in self.own_ports and _is_here(host):
            raise IncompatibleError(f"{network_addr} is the leader's own address, not a learner's")
        return f"{host}:{port}"

    def _host_of(self, host: str, caller: Caller) -> str:
        """Where a caller without an identity is dialled; a name is taken for its own host, whatever it resolves to."""
        named, own = _ip(host), _ip(caller.address)
        if named is not None and self._listed(named):
            return host
        if own is None or (named not in (None, own) and not named.is_unspecified):
            raise IncompatibleError(
                f"{host} is not where this learner registered from ({caller.address or 'no host'}); at the leader "
                "list it in dial_hosts, or leave --network-addr out"
            )
        return f"[{own}]" if own.version == 6 else str(own)

    def _listed(self, ip: Ip) -> bool:
        """Whether the config names a network that this is in."""
        for host in self._hosts:
            try:
                if ip in ipaddress.ip_network(host, strict=False):
                    return True
            except ValueError:
                continue  # a name
        return False


def _ip(host: str) -> Ip | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_here(host: str) -> bool:
    """Whether this is an address of this machine."""
    if (ip := _ip(host)) is None:
        return host == "localhost"
    with socket.socket(socket.AF_INET6 if ip.version == 6 else socket.AF_INET) as probe:
        try:
            probe.bind((str(ip), 0))
        except OSError:
            return False
        return True
