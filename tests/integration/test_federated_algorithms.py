"""What learners keep between rounds survives what happens to them, and tasks of one's own run from end to end."""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from leader.config import RunConfig
from leader.global_model.initial import open_origin
from scripts.weights import main as write_weights
from tests.integration.harness import (
    Cluster,
    Leader,
    Program,
    ProxyTo,
    Settings,
    assert_same_bits,
    lose_the_receipt,
    succeed,
    weights,
)

CLASSES, EXAMPLES = 4, 20
TASK = "tests.integration.noise_task:Noise"
ROUNDS = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a, b, c for each learner, with an image tree."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.Generator(np.random.PCG64(3))
    for name in "abc":
        for number in range(EXAMPLES):
            path = folder / name / f"class-{number % CLASSES}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def own() -> Settings:
    """Short rounds of plain SGD on the learners' own data."""
    return {
        "rounds": ROUNDS,
        "seed": 7,
        "data.source": "none",
        "data.holder": "learner",
        "model.classes": CLASSES,
        "train.batch_size": 8,
        "train.local_steps": 2,
        "train.lr": 0.02,
        "train.momentum": 0,
        "train.nesterov": "false",
        "train.dtype": "float32",
        "limits.chunk_bytes": 1 << 16,
    }


@pytest.fixture(scope="module")
def scaffold(own: Settings) -> Settings:
    """`own` with control variates at the leader and at two learners."""
    return {**own, "learners": 2, "train.control_variates": "true", "cohort.lease_s": 60}


@pytest.fixture(scope="module")
def undisturbed_scaffold(scaffold: Settings, photos: Path, lasting: Cluster) -> Leader:
    """A whole run of `scaffold` in which nothing went wrong."""
    leader = lasting.leader(scaffold)
    succeed(leader, *(learner(lasting, leader, name, photos) for name in "ab"))
    return leader


def learner(
    cluster: Cluster, leader: str | Leader, name: str, photos: Path, *flags: str, faults: str = ""
) -> Program:
    """The learner `name`, which keeps its memory in the test's folder."""
    state = ("--state-dir", str(cluster.folder / f"state-{name}"))
    data = ("--data", str(photos / name))
    return cluster.learner(leader, "--name", name, *data, *state, *flags, faults=faults)


# --- SCAFFOLD ------------------------------------------------------------------------------


def test_control_variates_survive_cut_connections_and_kills_at_any_point(
    cluster: Cluster,
    scaffold: Settings,
    photos: Path,
    undisturbed_scaffold: Leader,
    proxy_to: ProxyTo,
) -> None:
    leader = cluster.leader(scaffold, secure=True)  # where nobody waits for the name of who was killed
    proxy = proxy_to(leader)
    join = ("--join", f"@{cluster.trust}/join")
    debug = ("--log-level", "debug")
    cut = learner(cluster, proxy.address, "a", photos, *join, *debug, faults="stop@learner.uploaded:2")
    points = ("learner.trained", "learner.uploading", "learner.uploaded", "learner.training")
    for round_, point in enumerate(points, start=1):
        dies = learner(cluster, leader, "b", photos, *join, faults=f"kill@{point}:{round_}")
        if round_ == 2:
            cut.frozen()
            proxy.cut()
            cut.signal(signal.SIGCONT)
        assert dies.wait() == -signal.SIGKILL
    succeed(learner(cluster, leader, "b", photos, *join), leader, cut)
    assert cut.output.count("registered as learner") == 2
    counted = Counter(event["round"] for event in leader.events("UpdateAccepted"))
    assert counted == dict.fromkeys(range(1, ROUNDS + 1), 2)
    assert_same_bits(leader.run_dir, undisturbed_scaffold.run_dir)


def killed_before_the_answer(cluster: Cluster, scaffold: Settings, photos: Path) -> tuple[Leader, Program]:
    """A run whose learner b dies when the leader has counted its update of round 2, and b doesn't know."""
    leader = cluster.leader(scaffold, secure=True, faults="stop@leader.collected:2")
    join = ("--join", f"@{cluster.trust}/join")
    stays = learner(cluster, leader, "a", photos, *join)
    dies = learner(cluster, leader, "b", photos, *join, faults="stop@learner.trained:2")
    dies.frozen()
    leader.event("UpdateAccepted", round=2)  # of the other: when the leader has both, it stops at once
    dies.signal(signal.SIGCONT)
    leader.frozen()
    dies.kill()
    assert "round 2" in dies.output
    leader.signal(signal.SIGCONT)
    return leader, stays


def test_a_learner_killed_before_it_hears_that_its_update_counted_goes_on_as_if_it_had(
    cluster: Cluster, scaffold: Settings, photos: Path, undisturbed_scaffold: Leader
) -> None:
    leader, stays = killed_before_the_answer(cluster, scaffold, photos)
    succeed(learner(cluster, leader, "b", photos, "--join", f"@{cluster.trust}/join"), leader, stays)
    assert_same_bits(leader.run_dir, undisturbed_scaffold.run_dir)


def test_a_learner_that_lost_its_memory_takes_the_run_elsewhere(
    cluster: Cluster, scaffold: Settings, photos: Path, undisturbed_scaffold: Leader
) -> None:
    leader, stays = killed_before_the_answer(cluster, scaffold, photos)
    join = ("--join", f"@{cluster.trust}/join")
    again = learner(cluster, leader, "b", photos, *join, "--state-dir", str(cluster.folder / "empty"))
    succeed(again, leader, stays)
    one, other = weights(leader.run_dir), weights(undisturbed_scaffold.run_dir)
    assert any(one[name].tobytes() != other[name].tobytes() for name in one)


def test_a_learner_whose_answer_was_lost_on_the_way_goes_on_as_if_it_had_come(
    cluster: Cluster,
    scaffold: Settings,
    photos: Path,
    undisturbed_scaffold: Leader,
    proxy_to: ProxyTo,
) -> None:
    leader = cluster.leader(scaffold, faults="stop@leader.collected:2")
    proxy = proxy_to(leader)
    stays = learner(cluster, leader, "a", photos)
    late = ("--log-level", "debug")
    cut = learner(cluster, proxy.address, "b", photos, *late, faults="stop@learner.trained:2")
    lose_the_receipt(leader, cut, proxy)
    succeed(leader, stays, cut)
    assert_same_bits(leader.run_dir, undisturbed_scaffold.run_dir)


# --- FedBN, Ditto, federated evaluation ------------------------------------------------------


def test_local_tensors_personal_models_and_federated_scores_in_one_run(
    cluster: Cluster, own: Settings, photos: Path
) -> None:
    federated: Settings = {
        **own,
        "learners": 3,
        "rounds": 4,
        "model.local": "*.norm.*",
        "train.personal_lambda": 0.5,
        "evaluation.holdout": 0.25,
        "evaluation.federated_every": 1,
    }
    leader = cluster.leader(federated)
    succeed(leader, *(learner(cluster, leader, name, photos) for name in "abc"))
    scored = leader.events("FederatedEvaluated")
    assert [event["round"] for event in scored] == [0, 1, 2, 3, 4]
    for event in scored:
        spreads = event["scores"]
        assert set(spreads) == {"accuracy", "loss", "personal_accuracy", "personal_loss"}
        # A quarter of each learner's 20 examples is held out.
        assert {(spread["learners"], spread["examples"]) for spread in spreads.values()} == {(3, 15)}
    assert scored[0]["scores"]["loss"] == scored[0]["scores"]["personal_loss"]
    assert scored[2]["scores"]["loss"] != scored[2]["scores"]["personal_loss"]
    assert [event["examples"] for event in leader.events("RoundCommitted")] == [45] * 4

    config = RunConfig.model_validate(
        {"seed": 7, "data": {"source": "none", "holder": "learner"}, "model": {"local": "*.norm.*"}}
    )
    start, end = open_origin(config, CLASSES), weights(leader.run_dir)
    for entry in start.layout.entries:
        before = start.vector[entry.start : entry.start + entry.size]
        moved = end[entry.name].tobytes() != before.tobytes()
        assert moved == (entry.name not in start.layout.local), entry.name
    kept = {}
    for name in "abc":
        [path] = (cluster.folder / f"state-{name}").rglob("*.safetensors")
        kept[name] = load_file(path)
        assert kept[name].keys() == {"local", "personal"}
        assert np.isfinite(kept[name]["personal"]).all()
    for vector in ("local", "personal"):
        assert len({kept[name][vector].tobytes() for name in "abc"}) == 3


# --- a task of one's own ---------------------------------------------------------------------


@pytest.mark.parametrize("variates", ["false", "true"], ids=["fedavg", "scaffold"])
def test_a_leader_that_knows_the_weights_alone_trains_the_same_bits_as_one_that_knows_the_task(
    cluster: Cluster, own: Settings, tmp_path: Path, variates: str
) -> None:
    file = tmp_path / "start.safetensors"
    assert write_weights(["--task", TASK, "--out", str(file), "--seed", "7"]) == 0
    short: Settings = {**own, "learners": 2, "rounds": 3, "train.control_variates": variates}
    ends = []
    for origin in ({"model.task": TASK}, {"model.name": "", "model.weights": file}):
        leader = cluster.leader({**short, **origin})
        crew = [cluster.learner(leader, "--name", name, "--task", TASK, "--data", name) for name in "ab"]
        succeed(leader, *crew)
        ends.append(weights(leader.run_dir))
    by_task, by_file = ends
    assert sorted(by_task) == sorted(by_file)
    assert [name for name in by_task if by_task[name].tobytes() != by_file[name].tobytes()] == []
    assert any(by_task[name].tobytes() != value.tobytes() for name, value in load_file(file).items())


def test_a_leader_that_knows_the_task_scores_the_model_by_its_metrics(
    cluster: Cluster, own: Settings
) -> None:
    known: Settings = {**own, "learners": 1, "rounds": 2, "model.task": TASK, "data.source": "test"}
    leader = cluster.leader(known)
    succeed(cluster.learner(leader, "--name", "a", "--task", TASK, "--data", "a"), leader)
    tested = leader.events("Evaluated")
    assert [event["round"] for event in tested] == [1, 2]
    assert all(set(event["metrics"]) == {"squared_error"} for event in tested)
    assert tested[0]["metrics"] != tested[1]["metrics"]
    assert leader.metrics[-1]["test_squared_error"] == tested[1]["metrics"]["squared_error"]


def test_a_learner_without_the_task_is_told_to_bring_it(
    cluster: Cluster, own: Settings, photos: Path
) -> None:
    leader = cluster.leader({**own, "learners": 1, "model.task": TASK})
    without = learner(cluster, leader, "a", photos)
    assert without.wait() == 1
    assert "start the learner with the same --task package.module:Name" in without.output
    assert "Traceback" not in without.output
