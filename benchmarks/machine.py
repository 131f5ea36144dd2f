"""The machine that was measured: processor, cores, memory, disk and versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from utils.version import RELEASE

_PACKAGES = ("torch", "numpy", "grpcio", "protobuf")


def describe_machine() -> dict[str, object]:
    """What a reader must know to compare figures."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "flockstep": RELEASE,
        **{name: metadata.version(name) for name in _PACKAGES},
        "load_1min": round(os.getloadavg()[0], 2),
    }


def in_words(machine: Mapping[str, object]) -> str:
    """The machine as a sentence has it."""
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "numpy"))
    return f"{machine['cores']} cores ({machine['cpu']}), {machine['system']}, {versions}"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, such as "AMD EPYC 9654"."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
