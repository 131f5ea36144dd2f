from __future__ import annotations

import pytest

from benchmarks.scaling.model import BYTES, MEMORY, SECONDS, Law
from benchmarks.scaling.paper import COUNTS, ELEMENTS, Estimate, estimates

LAWS = {
    "leader CPU": Law(SECONDS, (0.01, 0.002, 0.003, 0.006)),
    "leader peak": Law(MEMORY, (600e6, 24.0, 1.0)),
    "bytes up": Law(BYTES, (5000.0, 4.0)),
    "bytes down": Law(BYTES, (5000.0, 4.0)),
}


def estimate(learners: int, elements: int, codec: str) -> Estimate:
    [found] = [
        one
        for one in estimates(LAWS)
        if (one.learners, one.elements, one.codec) == (learners, elements, codec)
    ]
    return found


def test_every_case_is_there_once() -> None:
    cases = [(one.learners, one.elements, one.codec) for one in estimates(LAWS)]
    assert len(set(cases)) == len(cases) == 2 * len(COUNTS) * len(ELEMENTS)


def test_a_billion_parameters_to_a_thousand_learners() -> None:
    case = estimate(1000, 1_000_000_000, "none")
    assert case.up_bytes == pytest.approx(4e12, rel=1e-5)
    assert case.network_s == pytest.approx((6400, 64_000), rel=1e-5)  # 8e12 bytes on 10 and on 1 Gbit/s
    assert case.cpu_s == pytest.approx(0.01 + 2 + 3 + 6000)
    assert case.peak_bytes == pytest.approx(600e6 + 24e9 + 4e9 + 999 * (2 << 20))


def test_a_codec_shrinks_bytes_and_nothing_else() -> None:
    plain, small = estimate(64, 11_183_562, "none"), estimate(64, 11_183_562, "int8")
    assert small.up_bytes / plain.up_bytes == pytest.approx(0.254)
    assert small.network_s[0] / plain.network_s[0] == pytest.approx(0.254)
    assert (small.cpu_s, small.peak_bytes) == (plain.cpu_s, plain.peak_bytes)
