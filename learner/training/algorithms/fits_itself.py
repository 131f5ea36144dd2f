"""Tasks that train by themselves, such as scikit-learn's models: one call in place of local steps."""

from __future__ import annotations

from learner.training.algorithms.base import Algorithm
from learner.training.local_sgd import learning_rate
from model.task import FitPlan, FitsItself
from utils.errors import IncompatibleError
from utils.seeds import derive_seed


class OwnFit(Algorithm):
    """The task's `fit`."""

    def train(self) -> tuple[int, float] | None:
        """See Algorithm; raises IncompatibleError where the order asks for what only steps can do."""
        run, order, task = self.run, self.run.order, self.run.task
        assert isinstance(task, FitsItself)
        if order.exchange == "gradient":
            raise IncompatibleError("this task trains by itself, so it has no gradients; use exchange: delta")
        if order.proximal_mu or order.control_variates or order.personal_lambda:
            raise IncompatibleError(
                "this task trains by itself, so its steps can't be corrected; leave out train.proximal_mu, "
                "train.control_variates and train.personal_lambda"
            )
        if order.fragments:
            raise IncompatibleError(
                "this task trains by itself, so it can't take fragments in between two steps; leave out "
                "streaming.fragments"
            )
        run.model.module.train()
        every = range(order.local_steps)
        lr = learning_rate(order, 0)
        attempt = order.masking.attempt
        seed = derive_seed(order.seed, "attempt", attempt) if attempt else order.seed
        plan = FitPlan(lambda: (indices for _, indices in run.batches(every)), lr, seed)
        loss = task.fit(run.model.module, run.data, plan)
        return sum(len(indices) for _, indices in run.batches(every)), float(loss)
