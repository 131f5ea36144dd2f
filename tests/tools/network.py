"""A network of a test of its own: network namespaces with a switch, a router with NAT, and slow or cut links.

      leader 10.77.0.2 ──┐
    learner-a 10.77.0.3 ─┤ switch
         home 10.77.0.4 ─┘  └ NAT ── learner-b 192.168.7.2

Needs root, iproute2 and iptables; `network` skips a test where these are missing, with the reason.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.tools.needs import need_commands

LEADER, LEARNER_A, HOME, LEARNER_B = "leader", "learner-a", "home", "learner-b"
_SWITCH = "switch"
_OUTSIDE = {LEADER: "10.77.0.2", LEARNER_A: "10.77.0.3", HOME: "10.77.0.4"}
_INSIDE = {HOME: "192.168.7.1", LEARNER_B: "192.168.7.2"}


class Network:
    """Four machines; what happens in one of them is seen by no other but over its link."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def host(self, name: str) -> str:
        """The namespace of a machine, as `ip netns` knows it."""
        return f"{self._prefix}-{name}"

    @staticmethod
    def address(name: str) -> str:
        """Where the others reach this machine."""
        return _OUTSIDE[name]

    def build(self) -> None:
        """Make the machines and their links."""
        for name in (_SWITCH, LEADER, LEARNER_A, HOME, LEARNER_B):
            _ip("netns", "add", self.host(name))
            self._ip(name, "link", "set", "lo", "up")
        self._ip(_SWITCH, "link", "add", "br0", "type", "bridge")
        self._ip(_SWITCH, "link", "set", "br0", "up")
        for name, address in _OUTSIDE.items():
            self._cable(_SWITCH, name, name)
            self._ip(_SWITCH, "link", "set", name, "master", "br0", "up")
            self._plug_in(name, "eth0", address)
        self._cable(HOME, LEARNER_B, "eth1")
        self._plug_in(HOME, "eth1", _INSIDE[HOME])
        self._plug_in(LEARNER_B, "eth0", _INSIDE[LEARNER_B])
        self._ip(LEARNER_B, "route", "add", "default", "via", _INSIDE[HOME])
        self.run(HOME, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.run(HOME, "iptables", "-t", "nat", "-A", "POSTROUTING", "-o", "eth0", "-j", "MASQUERADE")

    def _cable(self, one: str, other: str, at_one: str) -> None:
        ends = ("link", "add", at_one, "netns", self.host(one), "type", "veth")
        _ip(*ends, "peer", "name", "eth0", "netns", self.host(other))

    def _plug_in(self, name: str, device: str, address: str) -> None:
        self._ip(name, "address", "add", f"{address}/24", "dev", device)
        self._ip(name, "link", "set", device, "up")

    def cut(self, name: str) -> None:
        """Pull this machine's plug."""
        self._ip(name, "link", "set", "eth0", "down")

    def mend(self, name: str) -> None:
        """Put this machine's plug back in."""
        self._ip(name, "link", "set", "eth0", "up")
        if name == LEARNER_B:  # a link that goes down takes the routes over it along
            self._ip(LEARNER_B, "route", "add", "default", "via", _INSIDE[HOME])

    def slow(self, name: str, rate: str) -> None:
        """Let this machine send no faster than `rate`, such as 100mbit."""
        bucket = ("root", "tbf", "rate", rate, "burst", "256kb", "latency", "50ms")
        self.run(name, "tc", "qdisc", "add", "dev", "eth0", *bucket)

    def run(self, name: str, *command: str) -> None:
        """Run a command on this machine, to its end."""
        _ip("netns", "exec", self.host(name), *command)

    def remove(self) -> None:
        """Take the machines and their links away."""
        for name in (_SWITCH, LEADER, LEARNER_A, HOME, LEARNER_B):
            subprocess.run(["ip", "netns", "delete", self.host(name)], check=False, capture_output=True)

    def _ip(self, name: str, *arguments: str) -> None:
        _ip("-n", self.host(name), *arguments)


@contextmanager
def network() -> Iterator[Network]:
    """The machines, gone afterwards; skips where they can't be made."""
    need_commands("ip", "tc", "iptables", install="apt-get install iproute2 iptables")
    if os.geteuid() != 0:
        pytest.skip("no network of its own: only root may make network namespaces")
    machines = Network(f"fl{os.getpid()}")
    try:
        try:
            machines.build()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network of its own: {error.cmd} says {error.stderr.decode().strip()}")
        yield machines
    finally:
        machines.remove()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
