from __future__ import annotations

from collections.abc import Iterator

import pytest

from leader.aggregation import compiled_add
from tests.tools.needs import needs


@pytest.fixture(scope="module", params=["NumPy", pytest.param("numba", marks=needs("numba"))])
def addition(request: pytest.FixtureRequest) -> Iterator[str]:
    """What adds in exact sums, each in its turn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled_add, "_loops", [])
        if request.param == "numba":
            compiled_add.compile_add(1 << 20)
            assert compiled_add.compiled() is not None
        yield request.param
