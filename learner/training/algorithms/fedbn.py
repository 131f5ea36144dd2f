"""FedBN: tensors that stay at each learner (Li et al. 2021, https://arxiv.org/abs/2102.07623).

The paper keeps batch normalisation; which tensors `model.local` names is the run's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from learner.training.algorithms.base import Algorithm
from model.layout import Layout
from utils.vector import Vector

_OWN = "local"


@lru_cache(maxsize=8)
def local_places(layout: Layout) -> NDArray[np.int64]:
    """Positions in the flat vector of the tensors that stay local, ascending."""
    pieces = [np.arange(e.start, e.start + e.size) for e in layout.entries if e.name in layout.local]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


class FedBn(Algorithm):
    """A part goes on with its own values of these tensors, and sends none of them."""

    @property
    def _places(self) -> NDArray[np.int64]:
        return local_places(self.run.model.layout)

    def sizes(self) -> Mapping[str, int]:
        """See Algorithm."""
        return {_OWN: len(self._places)}

    def start(self, model: Vector) -> Vector:
        """See Algorithm."""
        own = self.run.memory.get(_OWN)
        if own is None:
            return model
        start = model.copy()
        start[self._places] = own
        return start

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        """See Algorithm."""
        places = self._places
        return {_OWN: self.run.model.vector.detach().cpu().numpy()[places]} if len(places) else {}

    def send(self, values: Vector) -> None:
        """See Algorithm."""
        values[self._places] = 0
