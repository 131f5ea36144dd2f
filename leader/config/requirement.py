"""What a run asks of a learner before it gives it work: tags, a kind of device, memory."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_TAG = re.compile(r"[A-Za-z0-9._-]{1,32}")
_DEVICE = re.compile(r"device=(cpu|cuda|mps)")
_MEMORY = re.compile(r"memory>=([0-9]{1,6}(?:\.[0-9]{1,3})?)")
_GIB = 1 << 30


@dataclass(frozen=True)
class Requirement:
    """Conditions that a learner must meet, all of them.

    >>> Requirement.parse("site-a,device=cuda,memory>=8").met_by(["site-a", "night"], "cuda", 16 << 30)
    True
    """

    tags: frozenset[str] = frozenset()
    device: str = ""  # "" = any
    memory_bytes: int = 0

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """The requirement that cohort.require says in words; raises ValueError."""
        tags: set[str] = set()
        devices: set[str] = set()
        memories = {0}
        for word in (word.strip() for word in text.split(",") if text.strip()):
            if match := _DEVICE.fullmatch(word):
                devices.add(match[1])
            elif match := _MEMORY.fullmatch(word):
                memories.add(int(float(match[1]) * _GIB))
            elif _TAG.fullmatch(word):
                tags.add(word)
            else:
                raise ValueError(
                    f"{word!r} is neither a tag (1 to 32 of letters, digits, '.', '_' and '-') "
                    "nor device=cpu, device=cuda, device=mps or memory>=GIB, such as memory>=8"
                )
        if len(devices) > 1:
            raise ValueError(f"a learner has one device, not {' and '.join(sorted(devices))}; ask for one")
        return cls(frozenset(tags), "".join(devices), max(memories))

    def met_by(self, tags: Collection[str], device_kind: str, memory_bytes: int) -> bool:
        """Whether a learner that says this of itself may work."""
        return (
            self.tags.issubset(tags)
            and self.device in ("", device_kind)
            and memory_bytes >= self.memory_bytes
        )
