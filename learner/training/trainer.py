"""Local training: one work order in, one update out."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from learner.training.gradient_pieces import backward
from learner.training.local_sgd import ControlVariate, Correction, LocalSgd, Proximal
from learner.training.streaming_diloco import Head, remembered, replica_of, take_in
from learner.training.update import (
    Assignment,
    CancelledError,
    DivergedError,
    Progress,
    Score,
    Update,
    Watcher,
)
from model.flat import FlatModel
from model.precision import autocast, choose_dtype
from model.scoring import mean_loss, score
from model.task import FitPlan, FitsItself, Indices, to_device
from protos import leader_pb2
from utils import faults
from utils.batches import ShardSampler, batch_generator, holdout_split
from utils.errors import IncompatibleError
from utils.seeds import derive_seed
from utils.vector import Vector

_log = logging.getLogger(__name__)
_SCORING_BATCH = 500  # examples


class Trainer:
    """Runs work orders on one model; not thread-safe, `cancel` apart."""

    def __init__(self, model: FlatModel, *, compile_model: bool = False) -> None:
        self.model = model
        self._device = model.vector.device
        self._forward: nn.Module = torch.compile(model.module) if compile_model else model.module  # type: ignore[assignment]
        self._cancelled = threading.Event()
        self._local = _places(model, model.layout.local)
        self._local_parameters = self._local[self._local < model.layout.parameter_count]

    def cancel(self) -> None:
        """Make the order that runs now raise CancelledError before its next step; any thread may call it."""
        self._cancelled.set()

    def run(self, assignment: Assignment, progress: Progress = lambda done, total, rate: None) -> Update:
        """Train as the order says; raises DivergedError, CancelledError or IncompatibleError."""
        self._cancelled.clear()
        began = time.perf_counter()
        work = _Work(assignment)
        self._check_memory(assignment.memory)
        start = self._start(assignment)
        self.model.load(start)
        scores = work.scores = self._scores(work)
        start_loss = self._start_loss(work)
        order = assignment.order
        if not order.local_steps:  # the leader asks for scores alone
            nothing = np.zeros(self.model.layout.total, np.float32)
            seconds = time.perf_counter() - began
            return Update(nothing, work.examples, 0, math.nan, seconds, {}, scores)
        gradient = order.exchange == "gradient"
        if isinstance(assignment.task, FitsItself):
            trained, loss = self._fit(work, assignment.task)
        elif order.fragments:
            trained, loss = self._stream(work, progress)
        else:
            trained, loss = self._train(work, None if gradient else self._sgd(assignment), progress)
        _check_loss("training", order, loss, "train.lr")
        if assignment.watcher is not None:
            nothing = np.empty(0, np.float32)
            return Update(nothing, trained, trained, loss, time.perf_counter() - began, {}, scores)
        change = self.model.vector.detach().cpu().numpy() - start
        memory = self._remember(work, change)
        values = self._values(change, gradient=gradient)
        weight = trained if gradient else work.examples
        seconds = time.perf_counter() - began + (assignment.head.seconds if assignment.head else 0.0)
        return Update(values, weight, trained, loss, seconds, memory, scores, start_loss)

    def head(self, assignment: Assignment, progress: Progress) -> Head | None:
        """The steps of a streamed order before its fragment is taken in; None where the part has no weights yet.

        They need nothing of the order's model. Raises CancelledError or IncompatibleError.
        """
        return self._head(_Work(assignment), progress)

    def _check_memory(self, memory: Mapping[str, Vector]) -> None:
        layout = self.model.layout
        sizes = {"local": len(self._local), "control": layout.parameter_count, "personal": layout.total}
        wrong = [name for name, vector in memory.items() if vector.size != sizes.get(name, vector.size)]
        if wrong:
            raise IncompatibleError(
                f"what is kept here ({', '.join(wrong)}) is of another model; use another --state-dir"
            )

    def _start(self, assignment: Assignment) -> Vector:
        """The order's model, with the part's own values where tensors stay local."""
        own = assignment.memory.get("local")
        if own is None:
            return assignment.base
        start = assignment.base.copy()
        start[self._local] = own
        return start

    def _sgd(self, assignment: Assignment) -> LocalSgd:
        order, split = assignment.order, self.model.layout.parameter_count
        corrections: list[Correction] = []
        if order.proximal_mu:
            corrections.append(Proximal(order.proximal_mu, self.model.vector[:split].clone()))
        if order.control_variates:
            corrections.append(ControlVariate(self._tensor(self._drift(assignment))))
        return LocalSgd(order, self.model, corrections)

    def _train(self, work: _Work, sgd: LocalSgd | None, progress: Progress) -> tuple[int, float]:
        """(examples trained, mean loss); without `sgd` the gradient is left in the model."""
        return _mean(self._steps(work, sgd, range(work.order.local_steps), progress))

    def _steps(
        self, work: _Work, sgd: LocalSgd | None, steps: range, progress: Progress
    ) -> list[tuple[int, Tensor]]:
        """Make these local steps; examples and mean loss of each."""
        self.model.module.train()
        order, began = work.order, time.perf_counter()
        trained, losses = 0, []
        for step, (number, indices) in zip(steps, work.batches(steps), strict=True):
            if self._cancelled.is_set():
                raise CancelledError(f"round {order.round} is over")
            losses.append((len(indices), self._backward(work, number, indices)))
            if sgd is not None:
                sgd.step(step)
            trained += len(indices)
            faults.reach("learner.training", order.round)
            progress(step + 1, order.local_steps, trained / (time.perf_counter() - began))
        return losses

    def _stream(self, work: _Work, progress: Progress) -> tuple[int, float]:
        """Streaming DiLoCo: go on with the part's own weights, and take the fresh fragment in between two steps."""
        order = work.order
        head = work.assignment.head or self._head(work, progress)
        if head is None:  # all fragments are the leader's, which the model holds by now
            work.sgd = LocalSgd(order, self.model)
            return self._train(work, work.sgd, progress)
        self.model.load(head.vector)
        take_in(order, self.model, self._tensor(work.assignment.base))
        work.sgd, rest = head.sgd, range(order.overlap_steps, order.local_steps)
        return _mean(head.losses + self._steps(work, head.sgd, rest, progress))

    def _head(self, work: _Work, progress: Progress) -> Head | None:
        began, order = time.perf_counter(), work.order
        replica = replica_of(order, work.assignment.memory, self.model.layout)
        if replica is None:
            return None
        self.model.load(replica.vector)
        velocity = None if replica.velocity is None else self._tensor(replica.velocity)
        sgd = LocalSgd(order, self.model, velocity=velocity)
        losses = self._steps(work, sgd, range(order.overlap_steps), progress)
        return Head(order, replica, self.model.snapshot(), sgd, losses, time.perf_counter() - began)

    def _backward(self, work: _Work, number: int, indices: Indices) -> Tensor:
        self.model.zero_gradient()
        rng = batch_generator(work.order.seed, number)
        batch = to_device(work.task.make_batch(work.data, indices, rng), self._device)
        # Dropout and the like draw from torch's own generator: the same numbers for the same batch.
        _seed_torch(derive_seed(work.order.seed, "torch", number), self._device)
        with autocast(self._device, self._dtype(work)):
            loss = work.task.loss(self._forward, batch)
        if work.assignment.watcher is not None:
            self._watched(work, loss, len(indices), work.assignment.watcher)
        else:
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _watched(self, work: _Work, loss: Tensor, examples: int, watcher: Watcher) -> None:
        """Backward, with each piece told as soon as it is there: so the loss must be looked at before."""
        _, mean = _mean([(examples, loss.detach())])
        _check_loss("training", work.order, mean, "train.lr")
        watcher.begun(examples, mean, work.scores)
        backward(loss, self.model, work.assignment.base, watcher)

    def _fit(self, work: _Work, task: FitsItself) -> tuple[int, float]:
        order = work.order
        if order.exchange == "gradient":
            raise IncompatibleError("this task trains by itself, so it has no gradients; use exchange: delta")
        if order.proximal_mu or order.control_variates or order.personal_lambda:
            raise IncompatibleError(
                "this task trains by itself, so its steps can't be corrected; leave out train.proximal_mu, "
                "train.control_variates and train.personal_lambda"
            )
        if order.fragments:
            raise IncompatibleError(
                "this task trains by itself, so it can't take fragments in between two steps; leave out "
                "streaming.fragments"
            )
        self.model.module.train()
        every = range(order.local_steps)
        plan = FitPlan(
            lambda: (i for _, i in work.batches(every)), LocalSgd(order, self.model).lr(0), order.seed
        )
        loss = task.fit(self.model.module, work.data, plan)
        return sum(len(indices) for _, indices in work.batches(every)), float(loss)

    def _values(self, change: Vector, *, gradient: bool) -> Vector:
        """What travels: change or gradient, zero where tensors stay local."""
        values = change
        if gradient:
            values[: self.model.layout.parameter_count] = self.model.gradient.cpu().numpy()
        values[self._local] = 0
        return values

    # --- what stays here -------------------------------------------------------------------

    def _remember(self, work: _Work, change: Vector) -> dict[str, Vector]:
        order, split = work.order, self.model.layout.parameter_count
        memory: dict[str, Vector] = {}
        if len(self._local):
            memory["local"] = self.model.vector.detach().cpu().numpy()[self._local]
        if order.control_variates:
            # Option II of the paper: c_i+ = c_i - c + (x - y_i) / (K lr), with the sum of the steps' lr.
            sgd = LocalSgd(order, self.model)
            travelled = np.float32(math.fsum(sgd.lr(step) for step in range(order.local_steps)))
            if travelled:
                memory["control"] = -self._drift(work.assignment) - change[:split] / travelled
                memory["control"][self._local_parameters] = 0
            else:  # no step was made
                memory |= {n: v for n, v in work.assignment.memory.items() if n == "control"}
        if work.sgd is not None:
            memory |= remembered(order, self.model, work.sgd)
        if order.personal_lambda:
            memory["personal"] = self._personalise(work)
        return memory

    def _personalise(self, work: _Work) -> Vector:
        """Ditto (Li et al. 2021, algorithm 1): as many steps of the personal model, drawn to the round's one."""
        assignment, split = work.assignment, self.model.layout.parameter_count
        anchor = self._tensor(self._start(assignment)[:split])
        self.model.load(self._personal(assignment))
        proximal = Proximal(assignment.order.personal_lambda, anchor)
        sgd = LocalSgd(assignment.order, self.model, [proximal])
        _, loss = self._train(work, sgd, lambda done, total, rate: None)
        _check_loss("the personal model", assignment.order, loss, "train.personal_lambda or train.lr")
        personal: Vector = self.model.vector.detach().cpu().numpy().copy()
        return personal

    def _personal(self, assignment: Assignment) -> Vector:
        kept = assignment.memory.get("personal")
        return self._start(assignment) if kept is None else kept

    def _drift(self, assignment: Assignment) -> Vector:
        """SCAFFOLD's c - c_i, (P,); zero where tensors stay local, which no other learner pulls along."""
        control, kept = assignment.control, assignment.memory.get("control")
        if control is None or control.size != self.model.layout.parameter_count:
            raise IncompatibleError(
                "the leader sent no control variate that fits; install the same release on both"
            )
        drift: Vector = control - (kept if kept is not None else np.float32(0))
        drift[self._local_parameters] = 0
        return drift

    # --- scores ----------------------------------------------------------------------------

    def _scores(self, work: _Work) -> dict[str, Score]:
        """Of the order's model, then of the personal one, on what is held out."""
        order, held = work.order, work.held
        if not order.evaluate or not len(held):
            return {}
        scores = self._score(work)
        if order.personal_lambda:
            kept = self.model.snapshot()
            self.model.load(self._personal(work.assignment))
            scores |= {f"personal_{name}": value for name, value in self._score(work).items()}
            self.model.load(kept)
        undefined = sorted(name for name, value in scores.items() if not math.isfinite(value))
        if undefined:
            _log.warning(
                "round %d: %s left out, the held-out examples give no finite value",
                order.round,
                ", ".join(undefined),
            )
        return {n: Score(value, len(held)) for n, value in scores.items() if n not in undefined}

    def _score(self, work: _Work) -> dict[str, float]:
        return score(
            self.model.module,
            work.task,
            work.data,
            work.held,
            batch_size=_SCORING_BATCH,
            device=self._device,
            dtype=self._dtype(work),
        )

    def _start_loss(self, work: _Work) -> float | None:
        if not work.order.start_loss:
            return None
        return mean_loss(
            self.model.module,
            work.task,
            work.data,
            work.train,
            batch_size=_SCORING_BATCH,
            device=self._device,
            dtype=self._dtype(work),
        )

    def _dtype(self, work: _Work) -> torch.dtype:
        return choose_dtype(work.order.dtype, self._device)

    def _tensor(self, vector: Vector) -> Tensor:
        return torch.from_numpy(np.array(vector, np.float32)).to(self._device)


class _Work:
    """An assignment with its examples split into what is trained on and what is held out."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self.order = assignment.order
        self.task = assignment.task
        self.data: Any = assignment.examples
        self.train, self.held = holdout_split(len(assignment.examples), assignment.holdout, self.order.seed)
        self.examples = len(self.train)
        self.scores: Mapping[str, Score] = {}  # of the order's model
        self.sgd: LocalSgd | None = None  # whose momentum goes on in the next round (streamed runs)
        self._sampler = ShardSampler(self.examples, self.order.batch_size, self.order.seed)

    def batches(self, steps: range) -> Iterator[tuple[int, Indices]]:
        """(number, positions in the examples, ascending) of the batch of each of these steps."""
        for step in steps:
            number = self.order.first_batch + step
            yield number, self.train[np.sort(self._sampler.indices(number))]


def _mean(losses: list[tuple[int, Tensor]]) -> tuple[int, float]:
    """(examples, mean loss) over batches."""
    trained = sum(count for count, _ in losses)
    return trained, math.fsum(count * float(value) for count, value in losses) / trained


def _seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generators that layers draw from on `device` and on the CPU."""
    # torch.manual_seed formats a stack trace for each device that is not in use: a millisecond a batch.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def _places(model: FlatModel, names: frozenset[str]) -> NDArray[np.int64]:
    """Positions in the flat vector of the tensors with these names, ascending."""
    pieces = [np.arange(e.start, e.start + e.size) for e in model.layout.entries if e.name in names]
    return np.concatenate(pieces) if pieces else np.empty(0, np.int64)


def _check_loss(what: str, order: leader_pb2.WorkOrder, loss: float, lower: str) -> None:
    if not math.isfinite(loss):
        raise DivergedError(f"{what} diverged in round {order.round}: the loss is {loss}; lower {lower}")
