"""The laws of one machine carried on to more learners and larger models: on paper, nothing of it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.scaling.model import Law

#: Bytes a value of a codec, to the 4 of float32.
CODECS = {"none": 1.0, "int8": 1.016 / 4}
LINKS = (10e9, 1e9)  # bits a second, each way, of the leader's network card
COUNTS = (8, 64, 1000)
ELEMENTS = (11_183_562, 1_000_000_000)


@dataclass(frozen=True)
class Estimate:
    """One round of a leader whose learners are elsewhere."""

    learners: int
    elements: int
    codec: str
    up_bytes: float
    down_bytes: float
    network_s: tuple[float, ...]  # on each of LINKS: everything down, then everything up
    cpu_s: float
    peak_bytes: float


def estimates(laws: Mapping[str, Law]) -> Iterator[Estimate]:
    """All cases; codecs change the bytes, while CPU and memory are taken to be those of float32."""
    for elements in ELEMENTS:
        for learners in COUNTS:
            for codec, share in CODECS.items():
                up = share * laws["bytes up"](learners, elements)
                down = share * laws["bytes down"](learners, elements)
                yield Estimate(
                    learners,
                    elements,
                    codec,
                    up,
                    down,
                    tuple(8 * (up + down) / link for link in LINKS),
                    laws["leader CPU"](learners, elements),
                    laws["leader peak"](learners, elements),
                )
