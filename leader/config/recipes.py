"""Recipes: settings that go together, by the name of what they are for."""

from __future__ import annotations

from collections.abc import Mapping

#: Where they were found and what they came to is in docs/benchmarks/published_flower.md.
RECIPES: Mapping[str, Mapping[str, object]] = {
    # Labels differ from learner to learner: momentum at the leader carries on what most rounds agree in (Hsu 2019),
    # and a falling rate ends the drift of each learner towards its own labels.
    "skewed": {
        "server.optimizer": "fedavgm",
        "server.momentum": 0.9,
        "server.lr": 1.0,
        "train.schedule": "cosine",
        "train.warmup": 0.0,
    },
}
