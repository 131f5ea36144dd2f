from __future__ import annotations

import platform
import subprocess
import sys

import pytest

#: Page faults while 40 MiB are taken in blocks of 1 MiB and freed, five times over.
_PROGRAM = """\
import resource, sys
from utils.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
source = bytearray(1 << 20)
blocks = [bytes(source) for _ in range(40)]
del blocks
before = faults()
for _ in range(5):
    blocks = [bytes(source) for _ in range(40)]
    del blocks
print(faults() - before)
"""


def faults(how: str) -> int:
    command = (sys.executable, "-c", _PROGRAM, how)
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    assert faults("kept") < 500 < faults("default")
