"""What a learner's device can do, as the leader is told."""

from __future__ import annotations

import os

import torch


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
