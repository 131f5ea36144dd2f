"""The device that a model is trained or evaluated on, and its memory."""

from __future__ import annotations

import os
from typing import Any

import torch

from model.task import PlacesExamples, Task
from utils.errors import ConfigError

_SHARE = 4  # examples take no more than a fourth of the device's memory


def choose_device(name: str) -> torch.device:
    """The device called `name`; "auto" takes CUDA, then MPS, then the CPU.

    Raises ConfigError for a device that this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"--device {name}: not usable on this machine ({reason}); use auto or cpu"
        ) from None
    return device


def memory_bytes(device: torch.device) -> int:
    """Memory of the device, for the CPU that of the machine, in bytes; 0 where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu":
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):  # not POSIX, or a system that does not say
            return 0
    return 0


class Placement:
    """Keeps the examples that were asked for last in the memory of a device, where the task can make batches there.

    What is too large for it stays where it is, and so does everything of a CPU.
    """

    def __init__(self, device: torch.device, most_bytes: int | None = None) -> None:
        """`most_bytes` is a fourth of the device's memory unless it is given."""
        self._device = device
        self._most = memory_bytes(device) // _SHARE if most_bytes is None else most_bytes
        self._last: Any = None
        self._placed: Any = None

    def of(self, task: Task, examples: Any) -> Any:
        """What the task's `make_batch` is to be given for `examples`."""
        if self._device.type == "cpu" or not isinstance(task, PlacesExamples):
            return examples
        if examples is not self._last:
            self._placed = None  # two do not lie there at once
            placed = task.place(examples, self._device, self._most)
            self._last, self._placed = examples, examples if placed is None else placed
        return self._placed
