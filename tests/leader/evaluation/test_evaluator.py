from __future__ import annotations

import asyncio

import numpy as np
import pytest
import torch
from torch import nn

from leader.config import RunConfig
from leader.evaluation.evaluator import EvaluationQueue, Evaluator, Keep
from leader.events import Evaluated, EvaluationSkipped, Event, EventStream
from model.flat import FlatModel
from model.image_classification import ImageClassification
from utils.batches import normalise
from utils.datasets import Dataset
from utils.errors import CheckpointError
from utils.vector import Vector

CONFIG = RunConfig.model_validate({"train": {"dtype": "float32"}, "evaluation": {"batch_size": 7}})


def dataset(examples: int = 24) -> Dataset:
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (examples, 3, 6, 6), dtype=np.uint8)
    return Dataset("random", images, np.arange(examples) % 4, tuple("abcd"))


TASK = ImageClassification()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(80, 4))


def reference(module: nn.Module, data: Dataset) -> tuple[float, float]:
    """Accuracy and loss over all images at once, with an ordinary module."""
    module.eval()
    with torch.no_grad():
        logits = module(normalise(torch.from_numpy(data.images), channels_last=False))
        labels = torch.from_numpy(data.labels)
        accuracy = (logits.argmax(1) == labels).double().mean()
        return float(accuracy), float(nn.functional.cross_entropy(logits, labels))


@pytest.mark.parametrize("examples", [24, 21, 7, 1])
def test_accuracy_and_loss_are_those_of_all_images_at_once(examples: int) -> None:
    data, module = dataset(examples), network()
    expected = reference(network(), data)
    model = FlatModel(module)
    vector = model.snapshot().numpy()
    model.vector.zero_()
    metrics = Evaluator(model, TASK, data, CONFIG).evaluate(vector)
    assert metrics == pytest.approx({"accuracy": expected[0], "loss": expected[1]}, rel=1e-5)


def test_evaluation_changes_no_statistics_and_repeats_itself() -> None:
    model = FlatModel(network())
    vector = model.snapshot().numpy()
    evaluator = Evaluator(model, TASK, dataset(), CONFIG)
    first = evaluator.evaluate(vector)
    assert model.snapshot().numpy().tobytes() == vector.tobytes()
    assert evaluator.evaluate(vector) == first
    assert evaluator.evaluate(vector * np.float32(0.5)) != first


def queue(keep: Keep = lambda round_, metrics, vector: None) -> tuple[EvaluationQueue, list[Event], Vector]:
    events, model = EventStream(), FlatModel(network())
    seen: list[Event] = []
    events.subscribe(seen.append)
    return (
        EvaluationQueue(Evaluator(model, TASK, dataset(), CONFIG), events, keep),
        seen,
        model.snapshot().numpy(),
    )


def test_a_newer_model_replaces_one_that_waits_and_the_last_is_always_evaluated() -> None:
    async def scenario() -> None:
        evaluations, seen, vector = queue()
        evaluations.offer(1, vector)
        await asyncio.sleep(0)  # round 1 is under way
        evaluations.offer(2, vector)
        evaluations.offer(3, vector * np.float32(0.5))
        await evaluations.finish()
        kinds = [
            (type(event), event.round) for event in seen if isinstance(event, Evaluated | EvaluationSkipped)
        ]
        assert kinds == [(EvaluationSkipped, 2), (Evaluated, 1), (Evaluated, 3)]
        losses = [event.metrics["loss"] for event in seen if isinstance(event, Evaluated)]
        assert losses[0] != losses[1]

    asyncio.run(scenario())


def test_a_queue_that_ran_empty_takes_more() -> None:
    async def scenario() -> None:
        evaluations, seen, vector = queue()
        done = asyncio.Event()
        evaluations._events.subscribe(lambda event: done.set())
        for round_ in (1, 2):
            done.clear()
            evaluations.offer(round_, vector)
            await asyncio.wait_for(done.wait(), 20)
        await evaluations.finish()
        assert [event.round for event in seen if isinstance(event, Evaluated)] == [1, 2]

    asyncio.run(scenario())


def test_what_is_told_was_kept_before_with_the_weights_it_is_of() -> None:
    kept: list[tuple[int, float, bytes]] = []

    async def scenario() -> None:
        evaluations, seen, vector = queue(
            lambda round_, metrics, weights: kept.append((round_, metrics["loss"], weights.tobytes()))
        )
        told: list[bool] = []
        evaluations._events.subscribe(lambda event: told.append(len(kept) == 1))
        evaluations.offer(4, vector)
        await evaluations.idle()
        assert told == [True]
        [event] = seen
        assert isinstance(event, Evaluated)
        assert kept == [(4, event.metrics["loss"], vector.tobytes())]
        await evaluations.finish()

    asyncio.run(scenario())


def test_who_waits_hears_that_a_model_could_not_be_kept() -> None:
    def full(round_: int, metrics: object, weights: Vector) -> None:
        raise CheckpointError("the disk is full")

    async def scenario() -> None:
        evaluations, seen, vector = queue(full)
        evaluations.offer(1, vector)
        with pytest.raises(CheckpointError, match="the disk is full"):
            await evaluations.idle()
        evaluations.offer(2, vector)  # that does not take the failure away
        with pytest.raises(CheckpointError, match="the disk is full"):
            await evaluations.finish()
        assert seen == []

    asyncio.run(scenario())


def test_nothing_offered_is_nothing_to_wait_for() -> None:
    evaluations, seen, _ = queue()
    asyncio.run(evaluations.finish())
    assert seen == []
