"""Steps that are private in each example (DP-SGD, Abadi et al. 2016): clipped one by one, with noise for their sum.

Batches are drawn by chance (Poisson), each example for itself, from this learner's own key: the leader knows neither
them nor the noise. Clipping and noise are on the integer lattice, as for whole updates.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor, nn

from learner.training.local_run import LocalRun
from model.task import FitsItself, Indices
from utils.dp.discrete_gaussian import DiscreteGaussian
from utils.dp.lattice import MAX_REACH, to_lattice
from utils.errors import IncompatibleError

_NOISE = DiscreteGaussian((32, 32))
_MOST_EXAMPLES = 1 << 32  # of one batch
_BLOCK = 1 << 20  # elements of noise at once


class PrivateRun(LocalRun):
    """A run whose gradients are of private sums; raises IncompatibleError where examples can't be told apart."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        if isinstance(self.task, FitsItself):
            raise IncompatibleError(
                "this task trains by itself, so its examples can't be clipped (dp.mode=examples)"
            )
        if any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in self.model.module.modules()):
            raise IncompatibleError(
                "the model has batch norm, which mixes examples, so that none can be clipped alone "
                "(dp.mode=examples); use group norm"
            )

    @cached_property
    def _paid(self) -> tuple[float, bytes]:
        """Noise multiplier and key of the order's steps, which are charged when they are first needed."""
        if self.assignment.charge is None:
            raise IncompatibleError(
                "privacy of examples needs a learner with a ledger; simulations have none"
            )
        return self.assignment.charge(self.order, self.examples, self.start)

    @property
    def _rate(self) -> float:
        return min(1.0, self.order.batch_size / self.examples)

    def _key(self, purpose: str, number: int, data: bytes = b"") -> bytes:
        message = f"flockstep dp 1 {purpose} {self.order.work_id} {number} ".encode() + data
        return hmac.digest(self._paid[1], message, "sha256")

    def batches(self, steps: range) -> Iterator[tuple[int, Indices]]:
        """See LocalRun: whoever is drawn, which may be nobody."""
        for step in steps:
            number = self.order.first_batch + step
            stream = Cipher(algorithms.AES(self._key("batch", number)), modes.CTR(bytes(16))).encryptor()
            words = np.frombuffer(stream.update(bytes(8 * self.examples)), "<u8")
            drawn = words < np.uint64(min(math.floor(self._rate * 2**64), 2**64 - 1))
            yield number, self.train_indices[drawn]

    def counted(self, indices: Indices) -> int:
        """See LocalRun: as many as are expected, as the number drawn would tell of it."""
        return min(self.order.batch_size, self.examples)

    def _backward(self, number: int, indices: Indices) -> Tensor:
        """Leave the private mean in the gradient; the mean loss of the examples drawn, to be told to nobody."""
        clip, (multiplier, _) = self.order.examples.clip, self._paid
        reach = max(1, min(MAX_REACH, math.floor(_NOISE.accounted / multiplier)))
        total, losses = np.zeros(self.model.gradient.numel(), np.int64), [0.0]
        for place in range(len(indices)):
            # Another number for each, so that each has an augmentation and a dropout of its own.
            loss = super()._backward(number * _MOST_EXAMPLES + place, indices[place : place + 1])
            values = self.model.gradient.cpu().numpy()
            if np.isfinite(values).all():  # else it counts as zero: a refusal would tell of it
                total += to_lattice(values, clip, reach).levels
                losses.append(float(loss))
        key = self._key("noise", number, hashlib.sha256(total.data).digest())
        for first in range(0, total.size, _BLOCK):
            block = total[first : first + _BLOCK]
            block += _NOISE.draw(key, block.size, first)
        mean = (total * (clip / reach / self.counted(indices))).astype(np.float32)
        self.model.gradient.copy_(torch.from_numpy(mean))
        return torch.tensor(math.fsum(losses) / max(1, len(losses) - 1))
