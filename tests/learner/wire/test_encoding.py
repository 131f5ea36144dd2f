"""A codec's residuals are of the pieces that they were left by."""

from __future__ import annotations

import numpy as np
from torch import nn

from learner.wire.encoding import Coding
from model.layout import Layout
from protos import leader_pb2


def test_residuals_of_tensors_that_were_not_cut_are_not_added_to_their_parts() -> None:
    layout = Layout.of(nn.Linear(100, 10))
    values = np.linspace(-1, 1, layout.total, dtype=np.float32)
    order = leader_pb2.WorkOrder(local_steps=1)
    whole, cut = (
        Coding(leader_pb2.RunDescription(codec_up="topk:0.1", piece_bytes=1024, cut_tensors=each), layout)
        for each in (False, True)
    )
    _, left = whole.encode(order, values, {})
    assert any(np.any(vector) for vector in left.values())

    file, after = cut.encode(order, values, left)

    assert bytes(file.body) == bytes(cut.encode(order, values, {})[0].body)
    assert {name: after[name] for name in left} == left  # for whoever reads them again
