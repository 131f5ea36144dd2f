"""Of psutil, the CPU time of a process, as Linux tells it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace


class Process:
    """A process by its number."""

    def __init__(self, pid: int) -> None:
        self._stat = Path(f"/proc/{pid}/stat")

    def cpu_times(self) -> SimpleNamespace:
        """Seconds in the program and in the kernel, so far."""
        fields = self._stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        user, system = (int(field) / os.sysconf("SC_CLK_TCK") for field in fields[11:13])
        return SimpleNamespace(user=user, system=system)
