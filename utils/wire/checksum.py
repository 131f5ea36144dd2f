"""CRC-32 of payloads, by the fastest code there is: zlib's own takes longer than to add an update up."""

from __future__ import annotations

try:
    # Wheels of isal (Intel's storage library) exist for the usual platforms; the bits are zlib's.
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

__all__ = ["crc32"]
