from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.probe import peak_bytes

_LARGE = 400 << 20
_CHILD = "from benchmarks.probe import peak_bytes; print(peak_bytes())"


def test_the_peak_is_the_high_water_mark_of_the_program(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text(
        "Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t  8744 kB\nVmRSS:\t 8000 kB\n", encoding="utf-8"
    )
    assert peak_bytes(status) == 8744 * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells no more")
def test_a_child_does_not_report_the_peak_of_its_parent() -> None:
    large = bytearray(_LARGE)
    large[::4096] = b"x" * len(large[::4096])
    told = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True).stdout
    assert peak_bytes() > _LARGE > int(told)
