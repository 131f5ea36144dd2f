"""FedProx: local steps are drawn to the round's model (Li et al. 2020, https://arxiv.org/abs/1812.06127)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from learner.training.algorithms.base import Algorithm
from learner.training.local_sgd import Correction


@dataclass(frozen=True)
class Proximal:
    """Draws the weights to `anchor`: the gradient of mu / 2 * |w - anchor|^2.

    FedProx's eq. 2 with the round's model as anchor; with the roles of the models changed, the personal
    objective of Ditto (Li et al. 2021, eq. 1).
    """

    mu: float
    anchor: Tensor  # (P,)

    def __call__(self, parameters: Tensor, gradient: Tensor) -> None:
        """gradient += mu * (w - anchor)."""
        gradient.add_(parameters, alpha=self.mu).sub_(self.anchor, alpha=self.mu)


class FedProx(Algorithm):
    """`train.proximal_mu`."""

    def corrections(self) -> Sequence[Correction]:
        """See Algorithm."""
        model = self.run.model
        anchor = model.vector[: model.layout.parameter_count].clone()
        return [Proximal(self.run.order.proximal_mu, anchor)]
