"""glibc's malloc, told to keep freed memory: a process that moves payloads uses the same pages again.

By default glibc asks the kernel for fresh pages for every block of 128 KiB or more (later up to 32 MiB), and
gives freed ones back. A payload held in chunks of 1 MiB then costs a page fault and a cleared page for each 4 KiB.
And it gives threads heaps of their own, up to 8 a core: what gRPC's threads take and others free stays in each.
"""

from __future__ import annotations

import ctypes
import platform

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_BLOCK = 32 << 20  # that glibc lets the heap serve
_KEPT = 1 << 30  # freed bytes at the heap's end that stay here


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, in one heap; nothing happens where the C library is not glibc.

    To be called before gRPC is imported and threads begin: it holds for what is allocated later.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
    libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
    libc.mallopt(_M_ARENA_MAX, 1)
