from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from learner.training import local_run
from learner.training.device_reads import Read, SideStream, reading
from learner.training.gradient_pieces import backward
from learner.training.trainer import Trainer
from learner.training.update import Assignment, DivergedError, Score
from model.flat import FlatModel
from model.image_classification import ImageClassification, Shard
from model.layout import Layout
from model.piece_files import PieceFiles
from protos import leader_pb2
from utils.codecs.pieces import Piece
from utils.errors import IncompatibleError
from utils.vector import Vector

BATCH = torch.arange(24.0).reshape(4, 6) / 24
CPU = torch.device("cpu")

Way = Callable[[torch.device], AbstractContextManager[Read]]
#: How values are read on a CPU, and on a device with streams: there the CPU's own stand in for them.
WAYS = (reading, SideStream)


@pytest.fixture(params=WAYS, ids=["in place", "side stream"])
def way(request: pytest.FixtureRequest) -> Way:
    return cast(Way, request.param)


class Recorder:
    """Keeps what it is told; `seen` is called at each piece."""

    def __init__(
        self, layout: Layout, seen: Callable[[], None] = lambda: None, piece_bytes: int = 1, cut: bool = False
    ) -> None:
        self.pieces: Sequence[Piece] = PieceFiles(layout, piece_bytes, None, cut_tensors=cut).pieces
        self.begins: list[tuple[int, float, Mapping[str, Score]]] = []
        self.order: list[int] = []
        self.vector = np.full(layout.total, np.nan, np.float32)
        self._seen = seen

    def begun(self, examples: int, loss: float, scores: Mapping[str, Score]) -> None:
        assert not self.order
        self.begins.append((examples, loss, scores))

    def piece(self, number: int, values: Vector) -> None:
        self.order.append(number)
        piece = self.pieces[number]
        self.vector[piece.start : piece.stop] = values
        self._seen()


def flat_model(*layers: nn.Module) -> FlatModel:
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    return FlatModel(nn.Sequential(*layers))


def tell(model: FlatModel, loss: Tensor, recorder: Recorder, way: Way = reading) -> None:
    with way(CPU) as read:
        backward(loss, model, model.snapshot().numpy(), recorder, read)


def watched(model: FlatModel, loss: Callable[[], Tensor], way: Way = reading) -> tuple[Recorder, Vector]:
    """What a watcher is told, and the same values taken after backward."""
    start = model.snapshot().numpy()
    recorder = Recorder(model.layout)
    model.zero_gradient()
    made = loss()
    with way(CPU) as read:
        backward(made, model, start, recorder, read)
    split = model.layout.parameter_count
    buffers = model.vector.detach().numpy()[split:] - start[split:]
    return recorder, np.concatenate([model.gradient.numpy(), buffers])


def test_pieces_come_last_layer_first_and_buffers_at_the_end(way: Way) -> None:
    model = flat_model(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    recorder, expected = watched(model, lambda: model.module(BATCH).square().sum(), way)
    assert recorder.vector.tobytes() == expected.tobytes()
    assert sorted(recorder.order) == list(range(7))
    assert recorder.order[-1] == 6  # running mean and variance
    assert {*recorder.order[:2]} == {4, 5}  # of the last layer
    assert {*recorder.order[4:6]} == {0, 1}  # of the first one


def test_parts_of_a_tensor_are_told_one_after_the_other_as_soon_as_it_is_there() -> None:
    model = flat_model(nn.Linear(6, 50), nn.ReLU(), nn.Linear(50, 3))
    recorder = Recorder(model.layout, piece_bytes=256, cut=True)
    model.zero_gradient()
    tell(model, model.module(BATCH).square().sum(), recorder)
    assert [piece.tensors for piece in recorder.pieces] == [(0,)] * 5 + [(1, 2), (2,), (2, 3)]
    assert sorted(recorder.order) == list(range(8))
    assert {*recorder.order[:2]} == {6, 7}
    assert recorder.vector.tobytes() == model.gradient.numpy().tobytes()


def test_a_piece_is_told_while_backward_still_runs() -> None:
    model = flat_model(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    first = model.module.get_parameter("0.weight")
    moments: list[bool] = []
    recorder = Recorder(
        model.layout, lambda: moments.append(bool(first.grad is not None and first.grad.any()))
    )
    model.zero_gradient()
    tell(model, model.module(BATCH).square().sum(), recorder)
    assert not moments[0]
    assert moments[-1]


def test_parameters_that_the_loss_does_not_need_are_told_as_zero(way: Way) -> None:
    model = flat_model(nn.Linear(6, 5), nn.Linear(5, 2))
    layers = list(model.module.children())
    recorder, expected = watched(model, lambda: layers[0](BATCH).square().sum(), way)
    assert sorted(recorder.order) == [0, 1, 2, 3]
    assert recorder.vector.tobytes() == expected.tobytes()
    assert not recorder.vector[model.layout.parameters[2].start :].any()


def test_tied_weights_are_told_once_they_are_whole(way: Way) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(6, 6)
            self.two = nn.Linear(6, 6)
            self.two.weight = self.one.weight

        def forward(self, batch: Tensor) -> Tensor:
            out: Tensor = self.two(torch.relu(self.one(batch)))
            return out

    torch.manual_seed(0)
    model = FlatModel(Tied())
    recorder, expected = watched(model, lambda: model.module(BATCH).square().sum(), way)
    assert recorder.vector.tobytes() == expected.tobytes()
    assert sorted(recorder.order) == [0, 1, 2]


def test_a_gradient_that_changes_after_it_was_sent_is_an_error(way: Way) -> None:
    model = flat_model(nn.Linear(6, 6))
    layer = model.module

    def loss() -> Tensor:
        inner = checkpoint(layer, BATCH.clone().requires_grad_(), use_reentrant=True)
        loss: Tensor = (layer(inner) + inner).square().sum()
        return loss

    with pytest.raises(
        IncompatibleError, match=r"adds to a gradient that has been sent.*train.pipeline=false"
    ):
        watched(model, loss, way)


def test_hooks_are_gone_afterwards() -> None:
    model = flat_model(nn.Linear(6, 5), nn.Linear(5, 2))
    recorder, _ = watched(model, lambda: model.module(BATCH).square().sum())
    told = len(recorder.order)
    model.module(BATCH).square().sum().backward()
    assert len(recorder.order) == told


def training(lr: float = 0.1) -> tuple[Trainer, Assignment]:
    task = ImageClassification("resnet9-w8", classes=3)
    generator = np.random.Generator(np.random.PCG64(0))
    images = generator.integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
    model = FlatModel(task.build_model(0))
    order = leader_pb2.WorkOrder(
        exchange="gradient", round=2, seed=3, local_steps=1, batch_size=6, augment="standard", dtype="float32",
        evaluate=True, schedule=leader_pb2.Schedule(kind="constant", lr=lr),
    )  # fmt: skip
    shard = Shard(images, generator.integers(0, 3, 16))
    return Trainer(model), Assignment(order, model.snapshot().numpy(), task, shard, holdout=0.2)


def test_a_watched_step_tells_the_update_of_one_that_is_not(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_run, "reading", way)
    trainer, assignment = training()
    expected = trainer.run(assignment)
    recorder = Recorder(trainer.model.layout)
    update = trainer.run(Assignment(**{**vars(assignment), "watcher": recorder}))
    assert recorder.vector.tobytes() == expected.values.tobytes()
    assert recorder.begins == [(expected.examples, expected.loss, expected.scores)]
    told = update.examples, update.loss, update.scores
    assert told == (expected.examples, expected.loss, expected.scores)
    assert expected.scores


def test_of_a_loss_that_is_not_finite_nothing_is_told(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_run, "reading", way)
    trainer, assignment = training()
    recorder = Recorder(trainer.model.layout)
    spoilt = assignment.base.copy()
    spoilt[: trainer.model.layout.parameter_count] = np.float32(1e30)
    with pytest.raises(DivergedError):
        trainer.run(Assignment(**{**vars(assignment), "base": spoilt, "watcher": recorder}))
    assert recorder.begins == []
    assert recorder.order == []


def test_after_one_that_failed_none_is_taken() -> None:
    taken: list[float] = []

    def take(values: Tensor) -> None:
        taken.append(float(values))
        if taken == [0.0, 1.0]:
            raise IncompatibleError("enough")

    def read_all() -> None:
        with SideStream(CPU) as read:
            for number in range(4):
                read(torch.tensor(float(number)), take)

    with pytest.raises(IncompatibleError, match="enough"):
        read_all()
    assert taken == [0.0, 1.0]


def test_what_is_read_is_as_it_was_when_it_was_asked_for() -> None:
    taken: list[list[float]] = []
    values = torch.arange(3.0)
    with SideStream(CPU) as read:
        read(values, lambda copy: taken.append(copy.tolist()))
        values.zero_()
    assert taken == [[0.0, 1.0, 2.0]]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_watched_step_on_cuda_tells_what_backward_made_there() -> None:
    device = torch.device("cuda")
    torch.manual_seed(0)
    model = FlatModel(nn.Sequential(nn.Linear(6, 512), nn.BatchNorm1d(512), nn.Linear(512, 2)), device)
    start = model.snapshot().cpu().numpy()
    recorder = Recorder(model.layout)
    with reading(device) as read:
        backward(model.module(BATCH.to(device)).square().sum(), model, start, recorder, read)
    split = model.layout.parameter_count
    assert recorder.vector[:split].tobytes() == model.gradient.cpu().numpy().tobytes()
    assert recorder.vector[split:] == pytest.approx(
        model.vector.detach().cpu().numpy()[split:] - start[split:]
    )
