"""Where a model's tensors lie in one flat float32 vector; torch is not needed to read, cut and check that."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from utils.codecs.pieces import Piece, cut
from utils.errors import ConfigError
from utils.vector import Vector

if TYPE_CHECKING:  # an edge has no torch
    from torch import Tensor, nn


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
    under its first name. `buffers` follow without gaps: float buffers such as the statistics of
    batch norm. Integer buffers, such as batch norm's counter of batches, and buffers that are not
    in the module's `state_dict` stay local. Frozen parameters have no place: they are the same everywhere.
    """

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]
    #: Names of entries that stay at each learner: updates come without them, and the leader's never change.
    local: frozenset[str] = frozenset()
    #: Fingerprint of the frozen parameters; "" = there are none.
    frozen: str = ""

    @classmethod
    def of(cls, module: nn.Module) -> Layout:
        """The layout of `module`; raises ConfigError for a tensor that can't be in a flat vector."""
        parameters, buffers = tensors_of(module)
        _check_dtypes({**parameters, **buffers})
        trained = _entries(parameters, start=0)
        return cls(trained, _entries(buffers, start=_end(trained)), frozen=_fingerprint(module))

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

    def pieces(self, least_bytes: int = sys.maxsize, *, cut_tensors: bool = False) -> tuple[Piece, ...]:
        """What `gathered` gives, cut: parameters as `utils.codecs.pieces.cut` says; buffers are one piece more."""
        shapes = [entry.shape for entry in self.parameters if entry.name not in self.local]
        pieces = cut(shapes, least_bytes, cut_tensors=cut_tensors)
        buffers = self.shared[len(shapes) :]
        if not buffers:
            return pieces
        start, tensors = self.shared_parameter_count, tuple(range(len(shapes), len(self.shared)))
        own = tuple(entry.shape for entry in buffers)
        return (*pieces, Piece(len(pieces), start, start + _end(buffers), own, tensors))

    def digest(self) -> str:
        """SHA-256 in hex over names, shapes and kinds: equal if and only if the layouts are."""
        text = json.dumps([[[e.name, e.shape] for e in kind] for kind in (self.parameters, self.buffers)])
        return hashlib.sha256(text.encode()).hexdigest()


def tensors_of(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What trains, and what only travels, by name."""
    saved = module.state_dict().keys()
    trained: dict[str, Tensor] = {name: p for name, p in module.named_parameters() if p.requires_grad}
    floats = ((name, b) for name, b in module.named_buffers() if name in saved and b.is_floating_point())
    return trained, dict(floats)


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 in hex over names, dtypes, shapes and bits of the frozen parameters; "" without any."""
    import torch  # here, where there is a module of it

    frozen = sorted((name, tensor) for name, tensor in module.named_parameters() if not tensor.requires_grad)
    digest = hashlib.sha256()
    for name, tensor in frozen:
        digest.update(json.dumps([name, str(tensor.dtype), tensor.shape]).encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else ""


def _entries(tensors: dict[str, Tensor], start: int) -> tuple[Entry, ...]:
    entries = []
    for name, tensor in tensors.items():
        entries.append(Entry(name, tuple(tensor.shape), start, tensor.numel()))
        start += tensor.numel()
    return tuple(entries)


def _end(entries: Iterable[Entry]) -> int:
    return sum(entry.size for entry in entries)


def _check_dtypes(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if str(tensor.dtype) != "torch.float32":
            raise ConfigError(
                f"model tensor {name!r} is {tensor.dtype}, it must be torch.float32: call .float() on "
                "the model; train.dtype=bfloat16 chooses the arithmetic"
            )
