"""One flat float32 vector whose views are a module's parameters and float buffers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.layout import Entry, Layout, tensors_of
from utils.errors import ConfigError, IncompatibleError

CPU = torch.device("cpu")


class FlatModel:
    """A module whose parameters and float buffers are views into one flat vector.

    Writing to `vector` changes the module and the other way round. Gradients accumulate into
    views of `gradient`, so set them to zero with `zero_gradient`: `Module.zero_grad` would part
    the two.

    >>> model = FlatModel(nn.Linear(2, 1))
    >>> _ = model.vector.fill_(1.0)
    >>> model.module(torch.ones(1, 2)).sum().backward()
    >>> model.gradient
    tensor([1., 1., 1.])
    """

    module: nn.Module
    layout: Layout
    vector: Tensor  # (total,) float32
    gradient: Tensor  # (parameter_count,) float32

    def __init__(self, module: nn.Module, device: torch.device = CPU) -> None:
        """Move `module` to `device` and into a new flat vector; raises as `Layout.of` does."""
        self.layout = Layout.of(module)
        self.module = module.to(device)
        parameters, buffers = tensors_of(self.module)
        tensors = {**parameters, **buffers}
        _check_memory(tensors)
        self.vector = torch.empty(self.layout.total, dtype=torch.float32, device=device)
        self.gradient = torch.zeros(self.layout.parameter_count, dtype=torch.float32, device=device)
        for entry in self.layout.entries:
            view = _view(self.vector, entry)
            view.copy_(tensors[entry.name].detach())
            # Replacing .data keeps the tensor object, and with it every place where it is tied.
            tensors[entry.name].data = view
        for entry in self.layout.parameters:
            parameters[entry.name].grad = _view(self.gradient, entry)

    def zero_gradient(self) -> None:
        """Set all gradients to zero, in place."""
        self.gradient.zero_()

    def load(self, values: Tensor | NDArray[np.float32]) -> None:
        """Copy `values`, (total,) float32 on any device, into the module.

        Raises IncompatibleError if shape or dtype differ.
        """
        if isinstance(values, np.ndarray):
            # Arrays over received bytes are read-only, which torch can't express: those are copied.
            values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
        if values.shape != self.vector.shape or values.dtype != torch.float32:
            raise IncompatibleError(
                f"model values are {values.dtype} {tuple(values.shape)}, this model has "
                f"torch.float32 {tuple(self.vector.shape)}; use the same model, norm and classes"
            )
        self.vector.copy_(values)

    def snapshot(self) -> Tensor:
        """A copy of `vector`."""
        return self.vector.clone()


class ModelStack(FlatModel):
    """The vectors of `count` copies of a model, one a row; the module's own stays as it is.

    >>> ModelStack(FlatModel(nn.Linear(2, 1)), 4).vector.shape
    torch.Size([4, 3])
    """

    vector: Tensor  # (count, total) float32
    gradient: Tensor  # (count, parameter_count) float32

    def __init__(self, model: FlatModel, count: int) -> None:
        self.layout, self.module = model.layout, model.module
        self.vector = model.vector.expand(count, -1).clone()
        self.gradient = torch.zeros_like(self.vector[:, : self.layout.parameter_count])


def _view(flat: Tensor, entry: Entry) -> Tensor:
    return flat[entry.start : entry.start + entry.size].view(entry.shape)


def _check_memory(tensors: dict[str, Tensor]) -> None:
    owners: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        other = owners.setdefault(tensor.data_ptr(), name)
        if other != name:
            raise ConfigError(
                f"model tensors {other!r} and {name!r} are different objects that share memory; to tie "
                "them, assign one nn.Parameter to both modules"
            )
