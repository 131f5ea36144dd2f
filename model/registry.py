"""Models by name, with seeded initial weights."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import cast, get_args

import torch
from torch import nn

from model.networks.imagenet_resnet import imagenet_resnet
from model.networks.initialisation import initialise
from model.networks.norm import Norm
from model.networks.resnet import cifar_resnet
from model.networks.resnet9 import resnet9
from utils.errors import ConfigError

Architecture = Callable[[int, Norm], nn.Module]  # (classes, norm) to a model

MODELS: dict[str, Architecture] = {
    "resnet9-w16": partial(resnet9, 16),
    "resnet9-w8": partial(resnet9, 8),
    "resnet9-w64": partial(resnet9, 64),
    "resnet20": partial(cifar_resnet, 20),
    "resnet56": partial(cifar_resnet, 56),
    "resnet18": partial(imagenet_resnet, 18),
    "resnet34": partial(imagenet_resnet, 34),
    "resnet50": partial(imagenet_resnet, 50),
}


def model_names() -> tuple[str, ...]:
    """All names that `build_model` knows."""
    return tuple(MODELS)


def build_model(name: str, *, classes: int = 10, norm: str = "batch", seed: int = 0) -> nn.Module:
    """The model `name` on the CPU, its initial weights the same bits for the same seed everywhere.

    It maps float images (N, 3, 32, 32) to logits (N, `classes`). The global random state of
    torch stays as it is.

    Raises ConfigError for an unknown `name` or `norm`, or for fewer than 2 classes.

    >>> build_model("resnet20", classes=100)(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 100])
    """
    _check("model.name", name, model_names())
    _check("model.norm", norm, get_args(Norm))
    if classes < 2:
        raise ConfigError(f"model.classes is {classes}; it must be 2 or more")
    # torch draws weights of its own while it builds; none of them stays, nor a trace of the drawing.
    with torch.random.fork_rng(devices=()):
        model = MODELS[name](classes, cast(Norm, norm))
    initialise(model, seed)
    return model


def _check(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value in allowed:
        return
    near = difflib.get_close_matches(value, allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(f"{key} is {value!r}; {hint}allowed: {', '.join(allowed)}")
