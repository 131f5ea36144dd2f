"""The algorithms that an order asks for."""

from __future__ import annotations

from learner.training.algorithms.base import Algorithm
from learner.training.algorithms.ditto import Ditto
from learner.training.algorithms.fedbn import FedBn
from learner.training.algorithms.fedprox import FedProx
from learner.training.algorithms.fits_itself import OwnFit
from learner.training.algorithms.scaffold import Scaffold
from learner.training.algorithms.streaming_diloco import StreamingDiloco
from learner.training.local_run import LocalRun
from model.task import FitsItself


def choose_algorithms(run: LocalRun) -> list[Algorithm]:
    """In the order in which they act; none of them changes what plain local SGD does in a run that asks for none."""
    order = run.order
    wanted: list[tuple[object, type[Algorithm]]] = [
        (isinstance(run.task, FitsItself), OwnFit),
        (True, FedBn),
        (order.proximal_mu, FedProx),
        (order.control_variates, Scaffold),
        (order.fragments, StreamingDiloco),
        (order.personal_lambda, Ditto),  # last: it trains another model
    ]
    return [algorithm(run) for asked, algorithm in wanted if asked]
