from __future__ import annotations

import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch
from torch.distributed import HashStore, ProcessGroupGloo, Store  # type: ignore[attr-defined]

from benchmarks.step_time.ddp_store import LinkedStore, port_of, to_await, to_dial
from tests.tools.proxy import Proxy

PATIENCE = timedelta(seconds=60)


def entry(host: str, port: int, address: str) -> bytes:
    """As gloo writes it, with a pattern behind the address that must stay."""
    name = host.encode()
    family = socket.AF_INET.to_bytes(2, sys.byteorder)
    storage = family + port.to_bytes(2, "big") + socket.inet_aton(address) + bytes(range(128))
    lengths = [len(part).to_bytes(8, sys.byteorder) for part in (name, storage)]
    return lengths[0] + name + lengths[1] + storage


@pytest.mark.parametrize("host", ["", "vm", "a-machine-with-a-long-name"])
def test_only_port_and_address_change_wherever_they_lie(host: str) -> None:
    original = entry(host, 40_000, "127.0.0.1")
    assert port_of(original) == 40_000
    assert to_dial(original, 50_001) == entry(host, 50_001, "0.0.0.0")
    assert to_await(original) == entry(host, 40_000, "255.255.255.255")


@pytest.mark.parametrize("wrong", [b"", b"\x02" + bytes(200), entry("vm", 1, "127.0.0.1")[:24]])
def test_another_form_is_an_error_that_says_so(wrong: bytes) -> None:
    with pytest.raises(ValueError, match="another form than expected"):
        port_of(wrong)


def test_all_that_gloo_sends_goes_over_the_link() -> None:
    proxies: list[Proxy] = []

    def through(port: int) -> int:
        proxies.append(Proxy("127.0.0.1", port))
        return int(proxies[-1].start().rpartition(":")[2])

    def reduce(rank: int, store: Store) -> float:
        options = ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = PATIENCE
        group = ProcessGroupGloo(LinkedStore(store, rank, through), rank, 2, options)
        values = torch.full((250_000,), float(rank + 1))
        group.allreduce([values]).wait(PATIENCE)  # type: ignore[attr-defined]
        return float(values.min())

    store = HashStore()
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(reduce, range(2), [store] * 2)) == [3.0, 3.0]
    (proxy,) = proxies
    # Of a ring of two each sends half of the sum's parts and half of the sum: 1 MB in all.
    assert 1_000_000 <= proxy.bytes_up < 1_010_000
    assert 1_000_000 <= proxy.bytes_down < 1_010_000
    proxy.close()
