"""The edge's flags: what is refused at once, and in which words."""

from __future__ import annotations

import pytest

from leader.edge.app import App
from leader.edge.options import parse
from utils.errors import ConfigError, ForbiddenError


def test_flags_come_before_the_environment() -> None:
    options = parse(
        ["--leader", "leader:50060", "--listen", "[::1]:0"],
        {"FLOCKSTEP_EDGE_LEADER": "other:1", "FLOCKSTEP_EDGE_NAME": "east"},
    )
    assert (options.leader, options.listen, options.name) == ("leader:50060", "[::1]:0", "east")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", "leader"),
        ("--leader nowhere", "HOST:PORT with a port from 1 to 65535"),
        ("--leader h:1 --listen h", "HOST:PORT with a port from 0 to 65535"),
        ("--leader h:1 --edges-listen h:99999", "HOST:PORT with a port from 0 to 65535"),
        ("--leader h:1 --http-listen h", "HOST:PORT with a port from 0 to 65535"),
        ("--leader h:1 --http-advertise https://h", "HOST:PORT with a port from 1 to 65535"),
        ("--leader h:1 --advertise h:0", "HOST:PORT with a port from 1 to 65535"),
        ("--leader h:1 --name a/b", "1 to 64 letters"),
        ("--leader h:1 --redis-url redis://redis.corp", "write rediss://HOST:PORT"),
        ("--leader h:1 --redis-url rediss://ann:pw@redis.corp", "there is a password in it"),
        ("--leader h:1 --ca ca.pem", "certificate, key and ca go together"),
        ("--leader h:1 --join t --insecure", "choose one of join or identity, certificate, and insecure"),
        ("--leader h:1 --join-leader h", "HOST:PORT with a port from 1 to 65535"),
        ("--leader h:1 --leder h:2", "--leder"),
    ],
)
def test_what_cant_be_is_refused_with_what_can(flags: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(flags.split(), {})


def test_a_leader_on_another_machine_is_not_joined_in_the_clear_by_mistake() -> None:
    with pytest.raises(
        ForbiddenError, match=r"another machine: .*--join TOKEN .*--role aggregator.*or say --insecure"
    ):
        App(parse(["--leader", "leader.example:50060"], {}))
    App(parse(["--leader", "leader.example:50060", "--insecure"], {}))
