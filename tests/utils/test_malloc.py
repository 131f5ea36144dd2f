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


#: The heaps ("Arena 0:", ...) that eight threads have taken memory from, all alive at once.
_THREADS = """\
import ctypes, sys, threading
from utils.malloc import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
met, kept = threading.Barrier(8), []
def take():
    met.wait()
    kept.append(bytes(bytearray(5000)))
    met.wait()
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")


def run(program: str, how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((sys.executable, "-c", program, how), capture_output=True, text=True, check=True)


def faults(how: str) -> int:
    return int(run(_PROGRAM, how).stdout)


def heaps(how: str) -> int:
    return run(_THREADS, how).stderr.count("Arena ")


def test_freed_memory_is_used_again_without_asking_the_kernel() -> None:
    assert faults("kept") < 500 < faults("default")


def test_threads_share_one_heap() -> None:
    assert heaps("kept") == 1 < heaps("default")
