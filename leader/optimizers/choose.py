"""The server optimizer that a run's config asks for."""

from __future__ import annotations

from leader.config import RunConfig
from leader.optimizers.adaptive import FedAdagrad, FedAdam, FedYogi
from leader.optimizers.base import ServerOptimizer
from leader.optimizers.scaffold import Scaffold
from leader.optimizers.sgd import DiLoCo, FedAvg, FedAvgM, Sgd


def make_optimizer(config: RunConfig) -> ServerOptimizer:
    """SGD on the mean gradient, or what `server.optimizer` names on the mean delta."""
    train = config.train
    if config.exchange == "gradient" and config.codec.up == "topk":
        # The learners' encoders have the momentum in what they send (Deep Gradient Compression). Without it
        # here, weight decay must be as strong as momentum would have made it.
        return Sgd(0.0, train.weight_decay / (1 - train.momentum))
    if config.exchange == "gradient":
        return Sgd(train.momentum, train.weight_decay, train.nesterov)
    optimizer = _delta_optimizer(config)
    return Scaffold(optimizer) if train.control_variates else optimizer


def _delta_optimizer(config: RunConfig) -> ServerOptimizer:
    server = config.server
    match server.optimizer:
        case "fedavg":
            return FedAvg(server.lr)
        case "fedavgm":
            return FedAvgM(server.lr, server.momentum)
        case "fedadagrad":
            return FedAdagrad(server.lr, server.tau)
        case "fedadam":
            return FedAdam(server.lr, server.beta1, server.beta2, server.tau)
        case "fedyogi":
            return FedYogi(server.lr, server.beta1, server.beta2, server.tau)
        case "diloco":
            return DiLoCo(server.lr, server.momentum)
