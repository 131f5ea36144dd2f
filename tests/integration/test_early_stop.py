"""A run that has trained enough ends after the same round every time, and goes on when it is asked for more."""

from __future__ import annotations

import signal

import pytest
from safetensors import safe_open

from leader.evaluation.early_stop import EarlyStop
from tests.integration.harness import Cluster, Leader, Program, Settings, assert_same_bits, succeed, weights

METRIC = "test_loss"
PATIENCE = 1


@pytest.fixture(scope="module")
def tested(tiny: Settings) -> Settings:
    """As few examples as in `tiny`, and some to test on; a resumed leader keeps names for 2 s."""
    images: Settings = {"data.source": "synthetic", "data.train_examples": 64, "data.test_examples": 32}
    return {**tiny, **images, "cohort.lease_s": 8}


@pytest.fixture(scope="module")
def undisturbed(tested: Settings, lasting: Cluster) -> Leader:
    """A whole run of `tested` in which nothing went wrong."""
    return lasting.train(tested)


def crew(cluster: Cluster, leader: Leader) -> list[Program]:
    """Learners a and b."""
    return [cluster.learner(leader, "--name", name) for name in "ab"]


@pytest.fixture(scope="module")
def middle(undisturbed: Leader) -> tuple[Settings, int, str]:
    """Settings that end the run after a round in the middle of it, that round, and the reason."""
    losses = [line[METRIC] for line in undisturbed.metrics]
    for mode in ("min", "max"):  # whichever way the loss on noise goes, one of them ends it
        for target in losses[1:-1]:
            stop = EarlyStop(METRIC, mode, target, 0)
            for round_, loss in enumerate(losses, start=1):
                reason = stop.see(round_, {METRIC: loss})
                if reason and 1 < round_ < len(losses):
                    return (
                        {
                            f"evaluation.{k}": v
                            for k, v in (("metric", METRIC), ("mode", mode), ("target", repr(target)))
                        },
                        round_,
                        reason,
                    )
                if reason:
                    break
    raise AssertionError(f"no target ends the run in its middle: {losses}")


def test_a_run_ends_at_its_target_and_goes_on_to_the_same_bits_when_asked_for_more(
    cluster: Cluster, tested: Settings, undisturbed: Leader, middle: tuple[Settings, int, str]
) -> None:
    settings, last, reason = middle
    leader = cluster.leader({**tested, **settings})
    learners = crew(cluster, leader)
    leader.succeed()
    for learner in learners:
        learner.succeed()
        assert reason in learner.output
    [finished] = leader.events("RunFinished")
    assert (finished["round"], finished["reason"], finished["stopped_early"]) == (last, "", reason)
    told = leader.summary
    assert (told["rounds"], told["stopped"], told["stopped_early"]) == (last, None, reason)
    assert [line[METRIC] for line in leader.metrics] == [line[METRIC] for line in undisturbed.metrics[:last]]

    again = cluster.resumed(leader)  # nobody is needed to find that it is done
    again.succeed()
    [finished] = again.events("RunFinished")
    assert (finished["round"], finished["stopped_early"]) == (last, reason)
    assert again.events("RoundStarted") == []

    onward = cluster.resumed(again, "--set", "evaluation.target=null")
    succeed(onward, *crew(cluster, onward))
    assert onward.summary["stopped_early"] is None
    assert_same_bits(onward.run_dir, undisturbed.run_dir)


@pytest.mark.parametrize("point", ["leader.checkpointing", "leader.committed"])
def test_a_leader_killed_at_the_round_that_decides_stops_after_the_same_one(
    cluster: Cluster, tested: Settings, middle: tuple[Settings, int, str], point: str
) -> None:
    settings, last, reason = middle
    leader = cluster.leader({**tested, **settings}, faults=f"kill@{point}:{last}")
    crew(cluster, leader)
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    resumed.succeed()
    assert (resumed.summary["rounds"], resumed.summary["stopped_early"]) == (last, reason)


def test_patience_survives_a_killed_leader(cluster: Cluster, tested: Settings, undisturbed: Leader) -> None:
    patience = {"evaluation.metric": METRIC, "evaluation.mode": "max", "evaluation.patience": PATIENCE}
    stop = EarlyStop(METRIC, "max", None, PATIENCE)
    losses = [line[METRIC] for line in undisturbed.metrics]
    last = next((r for r, loss in enumerate(losses, start=1) if stop.see(r, {METRIC: loss})), len(losses))
    leader = cluster.leader({**tested, **patience}, faults=f"kill@leader.selecting:{last}")
    learners = crew(cluster, leader)
    assert leader.wait() == -signal.SIGKILL
    resumed = cluster.resumed(leader)
    succeed(resumed, *learners)
    assert resumed.summary["rounds"] == last


def test_the_best_model_is_that_of_its_round(cluster: Cluster, tested: Settings, undisturbed: Leader) -> None:
    lines = undisturbed.metrics
    best = max(lines, key=lambda line: line["test_accuracy"])  # the first of equals
    assert undisturbed.summary["best"] == {
        "round": best["round"],
        "metric": "test_accuracy",
        "value": best["test_accuracy"],
    }
    leader = cluster.train(
        {**tested, "evaluation.metric": METRIC, "evaluation.mode": "max", "evaluation.target": 0}
    )
    with safe_open(leader.run_dir / "best.safetensors", "numpy") as file:
        assert (file.metadata()["round"], file.metadata()["metric"]) == ("1", METRIC)
        final = weights(leader.run_dir)  # the run ended after round 1
        assert {name: file.get_tensor(name).tobytes() for name in final} == {
            name: tensor.tobytes() for name, tensor in final.items()
        }
    assert float(leader.metrics[0][METRIC]) == lines[0][METRIC]
