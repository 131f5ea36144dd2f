from __future__ import annotations

import pytest

from leader.config import RunConfig
from leader.optimizers.adaptive import FedAdagrad, FedAdam, FedYogi
from leader.optimizers.base import ServerOptimizer
from leader.optimizers.choose import make_optimizer
from leader.optimizers.scaffold import Scaffold
from leader.optimizers.sgd import DiLoCo, FedAvg, FedAvgM, Sgd

SERVER = {"lr": 0.2, "momentum": 0.3, "beta1": 0.4, "beta2": 0.5, "tau": 0.6}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fedavg", FedAvg(0.2)),
        ("fedavgm", FedAvgM(0.2, 0.3)),
        ("fedadagrad", FedAdagrad(0.2, 0.6)),
        ("fedadam", FedAdam(0.2, 0.4, 0.5, 0.6)),
        ("fedyogi", FedYogi(0.2, 0.4, 0.5, 0.6)),
        ("diloco", DiLoCo(0.2, 0.3)),
    ],
)
def test_each_name_gives_its_optimizer_with_the_configured_values(
    name: str, expected: ServerOptimizer
) -> None:
    config = RunConfig.model_validate({"server": {"optimizer": name, **SERVER}})
    assert make_optimizer(config) == expected


def test_the_default_adds_the_mean_as_it_is() -> None:
    assert make_optimizer(RunConfig()) == FedAvg(1.0)


def test_gradient_runs_step_by_the_training_section() -> None:
    config = RunConfig.model_validate(
        {"exchange": "gradient", "train": {"momentum": 0.5, "weight_decay": 0.1, "nesterov": False}}
    )
    assert make_optimizer(config) == Sgd(0.5, 0.1, nesterov=False)


def test_control_variates_wrap_the_chosen_optimizer() -> None:
    train = {"control_variates": True, "momentum": 0.0, "nesterov": False, "local_steps": 5}
    config = RunConfig.model_validate({"train": train, "server": {"optimizer": "fedavgm", **SERVER}})
    assert make_optimizer(config) == Scaffold(FedAvgM(0.2, 0.3))
