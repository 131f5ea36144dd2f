from __future__ import annotations

import numpy as np
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution
from leader.aggregation.choose import open_aggregate
from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from model.layout import Layout
from utils.wire.payload import PayloadReader, encode_header

LAYOUT = Layout.of(nn.Linear(2, 1))


def update(number: int, weight: int) -> Contribution:
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in LAYOUT.entries))
    reader.feed(np.full(LAYOUT.total, number, np.float32).tobytes())
    return Contribution(f"part-{number}", weight, reader.finish(), 1.0)


def test_the_mean_counts_as_the_config_says() -> None:
    for weighting, expected in (("examples", 4.0), ("uniform", 3.0)):
        config = RunConfig.model_validate({"aggregate": {"weighting": weighting}})
        aggregate = open_aggregate(config, LAYOUT, Scale.of(8.0, 4), None)
        assert isinstance(aggregate, Aggregate)
        aggregate.add(update(1, 1))
        aggregate.add(update(5, 3))
        assert aggregate.finish().mean.tolist() == [expected] * 3
        aggregate.close()
