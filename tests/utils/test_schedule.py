from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import ConfigError
from utils.schedule import KINDS, Schedule, carried

unit = st.floats(0, 1)


@pytest.mark.parametrize(
    ("kind", "warmup", "rates"),
    [
        ("constant", 0.2, (0.5, 0.5, 0.5, 0.5, 0.5)),
        ("cosine", 0.0, (0.5, 0.42678, 0.25, 0.07322, 0.0)),
        ("cosine", 0.5, (0.0, 0.25, 0.5, 0.25, 0.0)),
        ("onecycle", 0.5, (0.05, 0.275, 0.5, 0.2525, 0.005)),
        ("onecycle", 0.0, (0.5, 0.37625, 0.2525, 0.12875, 0.005)),
        ("onecycle", 1.0, (0.05, 0.1625, 0.275, 0.3875, 0.005)),
    ],
)
def test_rates_at_each_quarter_of_the_run(kind: str, warmup: float, rates: tuple[float, ...]) -> None:
    schedule = Schedule(kind, 0.5, warmup)
    assert [schedule.at(i / 4) for i in range(5)] == pytest.approx(rates, abs=1e-5)


@given(kind=st.sampled_from(KINDS), warmup=unit, progress=unit)
def test_a_rate_is_never_negative_nor_above_the_peak(kind: str, warmup: float, progress: float) -> None:
    assert 0 <= Schedule(kind, 0.5, warmup).at(progress) <= 0.5 * (1 + 1e-12)


@given(kind=st.sampled_from(("cosine", "onecycle")), warmup=st.floats(0.01, 0.99), a=unit, b=unit)
def test_the_rate_rises_to_the_end_of_the_warm_up_and_falls_from_there(
    kind: str, warmup: float, a: float, b: float
) -> None:
    schedule = Schedule(kind, 0.5, warmup)
    earlier, later = sorted((a, b))
    if later < warmup:
        assert schedule.at(earlier) <= schedule.at(later) + 1e-12
    elif earlier >= warmup:
        assert schedule.at(earlier) >= schedule.at(later) - 1e-12


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"train\.schedule is 'step'; allowed: constant, cosine, onecycle"):
        Schedule("step", 0.1)


@given(
    rates=st.lists(st.floats(0, 1), max_size=6),
    momentum=st.sampled_from((0.0, 0.5, 0.9)),
    nesterov=st.booleans(),
)
def test_a_gradient_is_carried_as_torchs_sgd_carries_it(
    rates: list[float], momentum: float, nesterov: bool
) -> None:
    weight = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    sgd = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=nesterov and momentum > 0)
    for rate in rates:
        sgd.param_groups[0]["lr"] = rate
        weight.grad = torch.ones(1, dtype=torch.float64)
        sgd.step()
    assert carried(rates, momentum, nesterov) == pytest.approx(-weight.item(), rel=1e-12)
