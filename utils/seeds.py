"""Seeds for every random choice, derived from the run's one seed by a path of names."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the random choice named by `path`, the same on every machine.

    >>> derive_seed(0, "shard", 3) == derive_seed(0, "shard", 3)
    True
    >>> derive_seed(0, "shard", 3) == derive_seed(0, "shard", 4)
    False
    """
    text = "\x1f".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
