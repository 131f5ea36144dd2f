"""One flat float32 vector whose views are a module's parameters and float buffers."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from utils.codecs.pieces import Piece, cut
from utils.errors import ConfigError, IncompatibleError
from utils.vector import Vector

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies in the flat vector; `start` and `size` count elements."""

    name: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """The order of a module's tensors in its flat vector.

    `parameters` are those that train (`requires_grad`), in the order of `named_parameters()`,
    from 0 without gaps; one that the module uses in several places (tied weights) is one entry
    under its first name. `buffers` follow without gaps: frozen parameters, then float buffers
    such as the statistics of batch norm. Integer buffers, such as batch norm's counter of
    batches, and buffers that are not in the module's `state_dict` stay local.
    """

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]
    #: Names of entries that stay at each learner: updates come without them, and the leader's never change.
    local: frozenset[str] = frozenset()

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of `module`; raises ConfigError for a tensor that can't be in a flat vector."""
        parameters, buffers = _tensors(module)
        _check_dtypes({**parameters, **buffers})
        trained = _entries(parameters, start=0)
        return cls(trained, _entries(buffers, start=_end(trained)))

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Parameters, then buffers."""
        return self.parameters + self.buffers

    def keeping(self, patterns: Iterable[str]) -> Layout:
        """This layout with the entries whose names match a glob pattern, such as `*.norm.*`, kept local.

        Raises ConfigError for a pattern that matches nothing, or if no parameter would be shared.
        """
        names = [entry.name for entry in self.entries]
        local: set[str] = set()
        for pattern in patterns:
            matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
            if not matches:
                raise ConfigError(
                    f"model.local: {pattern!r} matches no tensor of the model; its first is {names[0]!r}"
                )
            local.update(matches)
        if local and local.issuperset(entry.name for entry in self.parameters):
            raise ConfigError(
                "model.local: every parameter would stay local, so nothing would be trained together"
            )
        return replace(self, local=frozenset(local))

    @cached_property
    def shared(self) -> tuple[Entry, ...]:
        """Entries that updates bring, parameters first."""
        return tuple(entry for entry in self.entries if entry.name not in self.local)

    @cached_property
    def parameter_count(self) -> int:
        """Elements of all parameters."""
        return _end(self.parameters)

    @cached_property
    def total(self) -> int:
        """Elements of the whole vector."""
        return _end(self.entries)

    @cached_property
    def shared_parameter_count(self) -> int:
        """Elements of the parameters that updates bring."""
        return sum(entry.size for entry in self.parameters if entry.name not in self.local)

    def gathered(self, vector: Vector) -> Vector:
        """What is shared of a flat vector, (total,) or of parameters alone; that itself if nothing is local."""
        if not self.local:
            return vector
        parts = (vector[entry.start : entry.start + entry.size] for entry in self.shared)
        return np.concatenate([np.empty(0, np.float32), *parts])

    def merged(self, vector: Vector, shared: Vector) -> Vector:
        """`vector` with `shared` where `gathered` takes it from: new memory, or `shared` itself if nothing is local."""
        if not self.local:
            return shared
        merged, start = vector.copy(), 0
        for entry in self.shared:
            place = merged[entry.start : entry.start + entry.size]
            place[:] = shared[start : start + place.size]
            start += place.size
        return merged

    def fragment(self, number: int, of: int) -> Layout:
        """This layout for a round that exchanges one of `of` fragments: all other parameters are local to it.

        Fragments are whole tensors. Largest first, each goes to the fragment that is smallest so far, so that all
        are about equally large and each has tensors from the whole depth of the model. Raises ConfigError where
        there are not tensors enough.
        """
        shared = [entry for entry in self.parameters if entry.size and entry.name not in self.local]
        if not 0 <= number < of <= len(shared):
            raise ConfigError(
                f"fragment {number} of {of}: the model has {len(shared)} tensors to make them of; "
                "lower streaming.fragments"
            )
        groups: list[list[str]] = [[] for _ in range(of)]
        sizes = [0] * of
        for entry in sorted(shared, key=lambda entry: (-entry.size, entry.name)):  # whatever their order
            smallest = sizes.index(min(sizes))
            groups[smallest].append(entry.name)
            sizes[smallest] += entry.size
        return replace(self, local=self.local.union(*groups[:number], *groups[number + 1 :]))

    def pieces(self, least_bytes: int = sys.maxsize) -> tuple[Piece, ...]:
        """What `gathered` gives, cut: parameters as `utils.codecs.pieces.cut` says; buffers are one piece more."""
        pieces = cut([entry.shape for entry in self.parameters if entry.name not in self.local], least_bytes)
        buffers = [entry for entry in self.buffers if entry.name not in self.local]
        if not buffers:
            return pieces
        start, shapes = self.shared_parameter_count, tuple(entry.shape for entry in buffers)
        return (*pieces, Piece(len(pieces), start, start + _end(buffers), shapes))

    def digest(self) -> str:
        """SHA-256 in hex over names, shapes and kinds: equal if and only if the layouts are."""
        text = json.dumps([[[e.name, e.shape] for e in kind] for kind in (self.parameters, self.buffers)])
        return hashlib.sha256(text.encode()).hexdigest()


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
        parameters, buffers = _tensors(self.module)
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


def _tensors(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What trains, and what only travels, by name."""
    saved = module.state_dict().keys()
    trained: dict[str, Tensor] = {}
    carried: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters():
        (trained if parameter.requires_grad else carried)[name] = parameter
    floats = ((name, b) for name, b in module.named_buffers() if name in saved and b.is_floating_point())
    return trained, {**carried, **dict(floats)}


def _entries(tensors: dict[str, Tensor], start: int) -> tuple[Entry, ...]:
    entries = []
    for name, tensor in tensors.items():
        entries.append(Entry(name, tuple(tensor.shape), start, tensor.numel()))
        start += tensor.numel()
    return tuple(entries)


def _end(entries: Iterable[Entry]) -> int:
    return sum(entry.size for entry in entries)


def _view(flat: Tensor, entry: Entry) -> Tensor:
    return flat[entry.start : entry.start + entry.size].view(entry.shape)


def _check_dtypes(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ConfigError(
                f"model tensor {name!r} is {tensor.dtype}, it must be torch.float32: call .float() on "
                "the model; train.dtype=bfloat16 chooses the arithmetic"
            )


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
