"""The adapters of examples/README.md, trained with the settings that it gives, in one process: they alone travel."""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path

import pytest

from leader.events import RoundCommitted
from scripts.cluster import Cluster
from tests.clusters import play
from tests.examples.commands import commands_of
from tests.tools.needs import needs

MODULE = "examples.lora_task"


def settings() -> dict[str, object]:
    """What the README's leader is told."""
    [command] = [command for command in commands_of("Adapters") if command.startswith("python -m leader ")]
    words = shlex.split(command)
    return {
        **dict(word.split("=", 1) for word in words if "=" in word),
        "rounds": words[words.index("--rounds") + 1],
        "learners": 2,
    }


# PEFT asks transformers for what that will have no more.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@needs("peft")
@needs("transformers")
@pytest.mark.parametrize(
    ("task", "changed"), [("Verdicts", {}), ("NextWords", {"train.lr": 0.01, "rounds": 5})]
)
def test_adapters_learn_and_a_round_costs_no_more_than_they_do(
    task: str, changed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    lora_task = importlib.import_module(MODULE)
    monkeypatch.setattr(sys, "argv", ["lora_task", str(tmp_path)])
    lora_task.main()
    name = f"{MODULE}:{task}"

    async def scenario(cluster: Cluster) -> None:
        for number, learner in enumerate("ab", 1):
            cluster.learner(learner, task=name, data=tmp_path / f"part-{number}")
        await cluster.finished()
        scores.update(cluster.metrics[-1])

    scores: dict[str, float] = {}
    run = play(scenario, {**settings(), "data.source": tmp_path, "model.task": name, **changed})
    parameters = list(getattr(lora_task, task)().build_model(0).parameters())
    adapters = sum(one.numel() for one in parameters if one.requires_grad)
    assert run.vector.size == adapters < sum(one.numel() for one in parameters) / 8
    tensors = len(run.app.layout.entries)
    for told in run.seen(RoundCommitted):
        for both in (told.bytes_up, told.bytes_down):
            assert 0 <= both - 2 * 4 * adapters < 2 * (400 + 250 * tensors)  # names and shapes
    if task == "Verdicts":
        assert scores["test_accuracy"] > 0.9
    else:
        assert 0.87 < scores["test_loss"] < 1.4  # ln(450) nats in the 7 words after the first are the least
