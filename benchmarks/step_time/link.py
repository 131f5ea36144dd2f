"""Limited links in a process of their own: `python -m benchmarks.step_time.link --rate BYTES_PER_S --delay SECONDS`.

It prints HOST:PORT. Who asks there for PORT NAME is told a port that leads to that port of 127.0.0.1, at the rate
and so much later, each direction for itself; the same question always gets the same link.
"""

from __future__ import annotations

import argparse
import json
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.tools.proxy import Proxy

#: HOST:PORT that links are asked for at; not set where the network is as it is.
LINKS = "BENCHMARK_LINKS"
_USAGE = "usage"
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Usage:
    """What went over all links together, and what that cost the process that is the links."""

    bytes_up: int = 0  # towards the ports that were asked for
    bytes_down: int = 0
    cpu_s: float = 0.0

    def since(self, before: Usage) -> Usage:
        """What came to it after `before`."""
        return Usage(
            self.bytes_up - before.bytes_up, self.bytes_down - before.bytes_down, self.cpu_s - before.cpu_s
        )


class Links(socketserver.ThreadingTCPServer):
    """The proxies of one scene, and who asks for them."""

    daemon_threads = True

    def __init__(self, bytes_per_s: float, delay_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._bytes_per_s, self._delay_s = bytes_per_s, delay_s
        self._proxies: dict[str, Proxy] = {}
        self._lock = threading.Lock()

    def answer(self, question: str) -> str:
        """A line for a line."""
        with self._lock:
            return self._usage() if question == _USAGE else self._port(question)

    def _usage(self) -> str:
        proxies = self._proxies.values()
        up, down = sum(proxy.bytes_up for proxy in proxies), sum(proxy.bytes_down for proxy in proxies)
        return json.dumps({"bytes_up": up, "bytes_down": down, "cpu_s": time.process_time()})

    def _port(self, question: str) -> str:
        if question not in self._proxies:
            port, _ = question.split()
            proxy = self._proxies[question] = Proxy("127.0.0.1", int(port))
            proxy.start()
            proxy.set_bandwidth(self._bytes_per_s)
            proxy.set_delay(self._delay_s)
        return self._proxies[question].address.rpartition(":")[2]


class _Handler(socketserver.StreamRequestHandler):
    server: Links

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(self.server.answer(line.decode().strip()).encode() + b"\n")


def through(port: int, name: str, links: str | None) -> int:
    """The port to dial in place of `port` so that the traffic goes over the link called `name`.

    `links` is where they are asked for; without, it is the port itself.
    """
    return int(_ask(links, f"{port} {name}")) if links else port


def usage(links: str | None) -> Usage:
    """What went over the links so far; nothing where there are none."""
    return Usage(**json.loads(_ask(links, _USAGE))) if links else Usage()


def _ask(links: str, question: str) -> str:
    host, _, port = links.rpartition(":")
    with socket.create_connection((host, int(port)), _PATIENCE_S) as connection:
        connection.sendall(question.encode() + b"\n")
        return connection.makefile(encoding="utf-8").readline()


def main(argv: Sequence[str] | None = None) -> int:
    """Be the links until the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time.link", description=__doc__)
    parser.add_argument("--rate", type=float, required=True, help="bytes a second, in each direction")
    parser.add_argument("--delay", type=float, required=True, help="seconds, in each direction")
    options = parser.parse_args(argv)
    with Links(options.rate, options.delay) as links:
        host, port = links.server_address[:2]
        print(f"{host!s}:{port}", flush=True)
        links.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
