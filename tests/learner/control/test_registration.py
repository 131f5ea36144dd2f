from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from learner.control.registration import memory_bytes

MEMINFO = Path("/proc/meminfo")


@pytest.mark.skipif(not MEMINFO.exists(), reason="Linux tells its memory there")
def test_the_cpu_has_the_memory_of_the_machine() -> None:
    match = re.search(r"MemTotal:\s+(\d+) kB", MEMINFO.read_text())
    assert match is not None
    assert memory_bytes(torch.device("cpu")) == int(match[1]) * 1024


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_has_its_own_memory() -> None:
    assert memory_bytes(torch.device("cuda")) == torch.cuda.mem_get_info(0)[1]


def test_a_device_that_does_not_say_has_none() -> None:
    assert memory_bytes(torch.device("meta")) == 0
