"""A real Envoy in front of a leader's port, as `python -m leader.trust gateway` makes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leader.config import RunConfig
from leader.trust.gateway import Gateway, key_in, make_gateway
from leader.trust.identities.authority import Authority
from tests.tools.envoy import Envoy
from tests.tools.ports import free_port


@contextmanager
def gateway_to(
    leader: str,
    authority: Authority,
    folder: Path,
    config: RunConfig | None = None,
    edges: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> Iterator[Envoy]:
    """An Envoy that runs in front of the leader at this address, or of edges at these."""
    gateway = Gateway("edge", f"127.0.0.1:{free_port()}", leader, edges=edges, origins=origins)
    folder.mkdir()
    made = make_gateway(authority, config or RunConfig(), gateway, key_in(folder), 1.0, replace=False)
    for name, content in made.items():
        (folder / name).write_bytes(content)
    with Envoy(folder, gateway.listen) as envoy:
        yield envoy
