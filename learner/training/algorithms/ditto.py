"""Ditto: a personal model beside the round's one (Li et al. 2021, https://arxiv.org/abs/2012.04221)."""

from __future__ import annotations

from collections.abc import Mapping

from learner.training.algorithms.base import Algorithm
from learner.training.algorithms.fedprox import Proximal
from learner.training.local_sgd import LocalSgd
from utils.vector import Vector

_PERSONAL = "personal"  # (total,)


class Ditto(Algorithm):
    """`train.personal_lambda`: as many steps of the personal model, drawn to the round's one (algorithm 1)."""

    def sizes(self) -> Mapping[str, int]:
        """See Algorithm."""
        return {_PERSONAL: self.run.model.layout.total}

    def scored(self) -> Mapping[str, Vector]:
        """See Algorithm."""
        return {"personal_": self._personal()}

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        """See Algorithm; the model that the run trains on is the personal one afterwards."""
        run, order = self.run, self.run.order
        anchor = run.tensor(run.start[: run.model.layout.parameter_count])
        run.model.load(self._personal())
        sgd = LocalSgd(order, run.model, [Proximal(order.personal_lambda, anchor)])
        _, loss = run.train(sgd, quiet=True)
        run.check_loss("the personal model", loss, "train.personal_lambda or train.lr")
        personal: Vector = run.model.vector.detach().cpu().numpy().copy()
        return {_PERSONAL: personal}

    def _personal(self) -> Vector:
        return self.run.memory.get(_PERSONAL, self.run.start)
