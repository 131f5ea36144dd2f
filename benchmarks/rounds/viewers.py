"""`python -m benchmarks.rounds.viewers`: browsers and a Prometheus at a run's page, until it ends."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

_PATIENCE_S = 60.0
_SCRAPE_S = 1.0  # Prometheus's own is 15 to 60


def _find(page: Path) -> tuple[str, int]:
    """Host and port of the page, once there is one; raises TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_S
    while not page.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"there is no {page}")
        time.sleep(0.1)
    url = urlsplit(page.read_text(encoding="utf-8").strip())
    return url.hostname or "", url.port or 0


async def _watch(host: str, port: int, viewers: int) -> None:
    scraping = asyncio.create_task(_scrape(host, port))
    await asyncio.gather(*(_read(host, port, "/api/events") for _ in range(viewers)))
    scraping.cancel()


async def _scrape(host: str, port: int) -> None:
    while True:
        await _read(host, port, "/metrics")
        await asyncio.sleep(_SCRAPE_S)


async def _read(host: str, port: int, path: str) -> None:
    """Read an answer to its end; raises RuntimeError for one that is none."""
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError(f"{path}: {status.decode(errors='replace')}")
    while await reader.read(1 << 16):
        pass
    writer.close()


def main() -> int:
    """Watch until the page closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, required=True, help="the file `page` of a run's folder")
    parser.add_argument("--viewers", type=int, default=10)
    options = parser.parse_args()
    asyncio.run(_watch(*_find(options.page), options.viewers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
