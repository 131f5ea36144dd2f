from __future__ import annotations

from benchmarks.privacy import result
from benchmarks.spread import Spread


def test_what_is_promised_is_the_noise_of_three_levels_beside_numpys() -> None:
    names = ("noise, three levels", "noise, two levels", "numpy's float32 normal", "an update to the lattice")
    found = {name: Spread.of([seconds]) for name, seconds in zip(names, (0.3, 0.2, 0.25, 0.1), strict=True)}
    made = result(found, 1000)
    assert made.target is not None
    assert (made.target.value, made.target.limit, made.target.met) == (0.3 / 0.25, 1.0, False)
    assert [figure.spread.median for figure in made.figures] == [300.0, 200.0, 250.0, 100.0]
    assert made.ratios["an update to the lattice, to numpy's float32 normal"] == 0.4
