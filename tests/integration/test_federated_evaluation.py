"""Learners score the model on examples that they hold out, and the leader sums that up round by round."""

from __future__ import annotations

import json

from safetensors import safe_open

from tests.integration.harness import Cluster, Settings


def test_learners_score_each_round_s_model_on_what_they_do_not_train_on(
    cluster: Cluster, tiny: Settings
) -> None:
    held_out = {"evaluation.holdout": 0.25, "evaluation.federated_every": 1}
    best_at_learners = {"evaluation.metric": "federated.loss", "evaluation.mode": "max"}
    leader = cluster.train({**tiny, **held_out, **best_at_learners, "rounds": 3})
    lines = [json.loads(line) for line in (leader.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [line["examples"] for line in lines] == [48, 48, 48]  # of 64 images
    told = {event["round"]: event["scores"] for event in leader.events("FederatedEvaluated")}
    assert list(told) == [0, 1, 2, 3]
    assert [line.get("federated") for line in lines] == [told[1], told[2], told[3]]
    counted = [event["round"] for event in leader.events("UpdateAccepted")]
    assert counted == [1, 1, 2, 2, 3, 3, 4, 4]  # the last ones bring scores alone
    assert [event["round"] for event in leader.events("RoundCommitted")] == [1, 2, 3]
    for scores in told.values():
        assert list(scores) == ["accuracy", "loss"]
        assert (scores["loss"]["learners"], scores["loss"]["examples"]) == (2, 16)
        assert scores["loss"]["worst_decile"] == scores["loss"]["max"]
        assert scores["accuracy"]["mean"] * 16 == round(scores["accuracy"]["mean"] * 16)
    summary = json.loads((leader.run_dir / "summary.json").read_text())
    assert (summary["federated"], summary["federated_round"]) == (told[3], 3)
    best = max((1, 2, 3), key=lambda number: told[number]["loss"]["mean"])
    assert summary["best"] == {
        "round": best,
        "metric": "federated.loss",
        "value": told[best]["loss"]["mean"],
    }
    checkpoint = leader.run_dir / "checkpoints" / f"round-{best:08d}.safetensors"
    with (
        safe_open(leader.run_dir / "best.safetensors", "numpy") as kept,
        safe_open(checkpoint, "numpy") as state,
    ):
        vector = state.get_tensor("vector")
        flat = b"".join(kept.get_tensor(name).tobytes() for name in kept.offset_keys())
        assert flat == vector.tobytes()
