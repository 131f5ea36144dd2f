"""Fragments: what of the model a round exchanges."""

from __future__ import annotations

from model.layout import Layout


class Fragments:
    """The model in `count` fragments that take turns, one a round; 0 = all of it each round.

    Raises ConfigError if the model has fewer tensors than that.
    """

    def __init__(self, layout: Layout, count: int = 0) -> None:
        self.whole = layout
        #: What each fragment's rounds exchange, with everything else local.
        self.layouts = tuple(layout.fragment(number, count) for number in range(count)) or (layout,)

    def of(self, round_: int) -> Layout:
        """What round `round_`, from 1 on, exchanges."""
        return self.layouts[(round_ - 1) % len(self.layouts)]
