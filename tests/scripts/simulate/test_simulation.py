"""Simulations of a small task: reproducible, with attackers, stragglers, asynchronous, and on threads."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks.simulations.mlp_task import Mlp, Vectors
from leader.config import RunConfig
from leader.events import Event, RoundAbandoned, RoundCommitted
from learner.training.update import Assignment, Update
from protos import leader_pb2
from scripts.simulate.parts import Brought
from scripts.simulate.simulation import Hooks, Options, Outcome, simulate
from tests.tools.needs import needs
from utils.errors import ConfigError

LEARNERS = 6


class Forgetful(Mlp):
    """The same with dropout."""

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Of inputs some of which are dropped."""
        return super().loss(model, (torch.dropout(batch[0], 0.5, True), batch[1]))


def config(folder: Path, **settings: Any) -> RunConfig:
    given: dict[str, Any] = {
        "rounds": 4,
        "learners": LEARNERS,
        "run_dir": folder,
        "model": {"task": "benchmarks.simulations.mlp_task:Mlp"},
        "data": {"source": "none", "holder": "learner"},
        "train": {"local_steps": 2, "batch_size": 16, "dtype": "float32"},
    }
    return RunConfig.model_validate(given | settings)


def run(
    settings: RunConfig, options: Options | None = None, hooks: Hooks | None = None, *, resume: bool = False
) -> Outcome:
    own = [
        Brought(Vectors.of_client(i), leader_pb2.OwnData(examples=32, fingerprint=f"client-{i}"))
        for i in range(LEARNERS)
    ]
    return simulate(settings, options, replace(hooks or Hooks(), own=own), resume=resume)


def digest(outcome: Outcome) -> str:
    assert outcome.reason == ""
    return str(outcome.summary["model_sha256"])


def test_the_same_seed_gives_the_same_bits_and_another_one_others(tmp_path: Path) -> None:
    runs = [run(config(tmp_path / str(i), seed=seed)) for i, seed in enumerate((1, 1, 2))]
    assert digest(runs[0]) == digest(runs[1])
    assert digest(runs[0]) != digest(runs[2])


def test_an_asynchronous_run_is_reproducible_and_depends_on_the_speeds(tmp_path: Path) -> None:
    asynchronous: Mapping[str, Any] = {"buffer": {"size": 3}, "rounds": 8}
    spread = Options(speed_spread=1.5)
    runs = [
        run(config(tmp_path / str(i), **asynchronous), options)
        for i, options in enumerate((spread, spread, Options()))
    ]
    assert digest(runs[0]) == digest(runs[1])
    assert digest(runs[0]) != digest(runs[2])


def test_stragglers_miss_a_deadline_in_virtual_time(tmp_path: Path) -> None:
    counts: list[int] = []

    def heard(event: Event) -> None:
        if isinstance(event, RoundCommitted):
            counts.append(event.learners)

    # 2 x 16 examples at 10,000 a second: the median learner takes 3.2 ms.
    settings = config(tmp_path / "run", cohort={"quorum": 0.1, "deadline_s": 0.004})
    run(settings, Options(speed_spread=1.5), Hooks(listener=heard))
    assert len(counts) == 4
    assert set(counts) <= set(range(1, LEARNERS))


def test_the_shard_of_one_that_fails_goes_to_another_before_any_time_passes(tmp_path: Path) -> None:
    events: list[Event] = []
    made: list[str] = []

    def nan_twice(part: str, assignment: Assignment, update: Update) -> Update:
        made.append(part)
        return update if len(made) > 2 else replace(update, values=np.full_like(update.values, np.nan))

    data = {"source": "synthetic", "train_examples": 8, "test_examples": 1, "shards": 1}
    settings = config(tmp_path / "run", rounds=1, data=data, model={"name": "resnet9-w8", "norm": "group"})
    outcome = simulate(settings, hooks=Hooks(tamper=nan_twice, listener=events.append))
    assert (outcome.reason, made) == ("", ["shard-00000"] * 3)
    assert not any(isinstance(event, RoundAbandoned) for event in events)


def test_a_run_whose_learners_all_fail_is_stopped(tmp_path: Path) -> None:
    abandoned: list[Event] = []

    def heard(event: Event) -> None:
        if isinstance(event, RoundAbandoned):
            abandoned.append(event)

    def nan(part: str, assignment: Assignment, update: Update) -> Update:
        return replace(update, values=np.full_like(update.values, np.nan))

    outcome = run(config(tmp_path / "run"), hooks=Hooks(tamper=nan, listener=heard))
    assert "failed" in outcome.reason
    assert outcome.summary["rounds"] == 0


def test_tampered_updates_reach_the_sum(tmp_path: Path) -> None:
    def flip(part: str, assignment: Assignment, update: Update) -> Update:
        return replace(update, values=-update.values) if part == "own-learner-00001" else update

    honest = run(config(tmp_path / "honest"))
    attacked = run(config(tmp_path / "attacked"), hooks=Hooks(tamper=flip))
    assert digest(honest) != digest(attacked)


def test_threads_give_the_same_bits_as_one_worker(tmp_path: Path) -> None:
    one, three = run(config(tmp_path / "one")), run(config(tmp_path / "three"), Options(workers=3))
    assert digest(one) == digest(three)


def test_dropout_on_threads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.simulations.mlp_task.Mlp", Forgetful)
    assert digest(run(config(tmp_path / "one")))
    with pytest.raises(ConfigError, match="draws random numbers"):
        run(config(tmp_path / "three"), Options(workers=3))


@needs("ray")
def test_ray_actors_give_the_same_bits_as_one_worker(tmp_path: Path) -> None:
    one = run(config(tmp_path / "one"))
    actors = run(config(tmp_path / "actors"), Options(workers=2, ray="local"))
    assert digest(one) == digest(actors)


@needs("ray")
def test_what_fails_at_a_ray_actor_is_told_in_its_own_words(tmp_path: Path) -> None:
    train = {"local_steps": 5, "batch_size": 16, "dtype": "float32", "lr": 1e20}
    outcome = run(config(tmp_path / "run", train=train), Options(ray="local"))
    assert outcome.reason.endswith("failed: training diverged in round 1: the loss is nan; lower train.lr")
    assert "\n" not in outcome.reason


def test_without_ray_its_flag_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="pip install ray"):
        run(config(tmp_path / "run"), Options(ray="local"))


def test_signed_runs_are_not_for_learners_without_identities(tmp_path: Path) -> None:
    settings = {"secagg": {"mode": "signed"}, "trust": {"mode": "on"}, "cohort": {"quorum": 0.8}}
    with pytest.raises(ConfigError, match=r"virtual learners have no identities: set secagg\.mode=masked"):
        run(config(tmp_path / "run", **settings))


@pytest.mark.parametrize("deadline_s", [300, 0.008])
def test_masked_runs_have_the_same_bits_and_stragglers_are_in_no_sum(
    tmp_path: Path, deadline_s: float
) -> None:
    plain = {"cohort": {"quorum": 0.8, "deadline_s": deadline_s}, "seed": 3}
    masked = {**plain, "secagg": {"mode": "masked", "bits": 64}}
    spread = Options(speed_spread=0.5)
    told: list[list[int]] = []
    outcomes = []
    for name, settings in (("plain", plain), ("masked", masked)):
        events: list[Event] = []
        outcomes.append(run(config(tmp_path / name, **settings), spread, Hooks(listener=events.append)))
        told.append([event.learners for event in events if isinstance(event, RoundCommitted)])
    assert digest(outcomes[0]) == digest(outcomes[1])
    assert told[0] == told[1]
    assert (min(told[0]) < LEARNERS) == (deadline_s < 1)
    assert outcomes[1].summary["privacy"] == {"mode": "masked", "least": 5}


def many(
    folder: Path,
    learners: int,
    rounds: int,
    heard: Callable[[Event], None] | None = None,
    resume: bool = False,
) -> Outcome:
    """So many learners, five a round, all with the same data."""
    data = Vectors.of_client(0)
    own = [Brought(data, leader_pb2.OwnData(examples=32, fingerprint=f"{i}")) for i in range(learners)]
    train = {"local_steps": 2, "batch_size": 16, "dtype": "float32", "schedule": "constant"}
    rest = {"cohort": {"size": 5}, "evaluation": {"every": 0}, "train": train}
    settings = config(folder, learners=learners, rounds=rounds, **rest)
    return simulate(settings, hooks=Hooks(own, listener=heard), resume=resume)


def calls_a_round(folder: Path, learners: int) -> list[int]:
    """Calls of functions from one commit to the next."""
    calls, counts = 0, []

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    def heard(event: Event) -> None:
        nonlocal calls
        if isinstance(event, RoundCommitted):
            counts.append(calls)
            calls = 0
            sys.setprofile(count)

    try:
        many(folder, learners, 8, heard)
    finally:
        sys.setprofile(None)
    return counts[2:]


def test_a_round_does_as_much_with_two_thousand_learners_as_with_fifty(tmp_path: Path) -> None:
    few, many_ = (sorted(calls_a_round(tmp_path / str(n), n))[3] for n in (50, 2000))
    assert few > 2000
    assert many_ < 1.05 * few


@pytest.mark.parametrize("few", [256, 3])
def test_a_resumed_run_ends_in_the_same_bits_whatever_lies_beside_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    whole = many(tmp_path / "whole", 20, 6)
    monkeypatch.setattr("leader.state.FEW_PARTS", few)
    first = many(tmp_path / "run", 20, 3)
    assert bool(list(first.folder.glob("checkpoints/beside-*"))) == (few == 3)
    assert digest(many(tmp_path / "run", 20, 6, resume=True)) == digest(whole)
