"""Reading what a device computes, while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

Take = Callable[[Tensor], object]  # is given values on the CPU, good until it returns
Read = Callable[[Tensor, Take], None]  # (values on the device, who takes them); takers are called in order


def reading(device: torch.device) -> AbstractContextManager[Read]:
    """How values are read inside the block; all are taken when it ends, which raises what a taker raised.

    On the CPU each is taken at once, in place. On a CUDA device it is copied on a stream of its own, and taken in a
    thread of its own: neither the device nor who launches its work waits. After a taker that raised none is called.
    """
    return SideStream(device) if device.type == "cuda" else nullcontext(_in_place)


def _in_place(values: Tensor, take: Take) -> None:
    take(values.cpu())


class SideStream(AbstractContextManager[Read]):
    """Copies to the CPU by a stream that runs beside the device's own work."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._backend = torch.get_device_module(device)
        # The CPU's streams, which stand in for a device's, are of no device.
        self._stream = self._backend.Stream() if device.type == "cpu" else self._backend.Stream(device)
        self._thread = ThreadPoolExecutor(1, "device-reads")
        self._taken: list[Future[None]] = []
        self._failed = False

    def _read(self, values: Tensor, take: Take) -> None:
        self._stream.wait_stream(self._backend.current_stream(self._device))
        with self._backend.stream(self._stream):
            copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=values.device.type != "cpu")
            copy.copy_(values, non_blocking=True)
            copied = self._backend.Event()
            copied.record(self._stream)
        # `values` goes along: its memory must not be used again before it is copied.
        self._taken.append(self._thread.submit(self._take, values, copied, copy, take))

    def _take(self, values: Tensor, copied: torch.Event, copy: Tensor, take: Take) -> None:
        copied.synchronize()
        if self._failed:
            return
        try:
            take(copy)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> Read:
        """How to read; what is read must not change before the block ends."""
        return self._read

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._failed = self._failed or kind is not None
        self._thread.shutdown()
        for each in self._taken if kind is None else ():
            each.result()
