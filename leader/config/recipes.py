"""Recipes: settings that go together, by the name of what they are for."""

from __future__ import annotations

from collections.abc import Mapping

#: Where they were found and what they came to is in docs/benchmarks/published_flower.md.
RECIPES: Mapping[str, Mapping[str, object]] = {
    # Labels differ from learner to learner: a rate that falls to nothing ends the drift of each towards its own labels.
    "skewed": {"train.schedule": "cosine", "train.warmup": 0.0},
}
