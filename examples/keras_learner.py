"""The textbook's federated client: a Keras model that each learner fits to its own data.

Keras runs on TensorFlow where that is installed, else on JAX. A task with a method `fit` gets the leader's weights:
here it puts them into a Keras model, calls `compile` and `fit`, and gives back the weights.

    python -m examples.make_data digits data/digits
    python -m leader --data data/digits --rounds 10 --set data.holder=learner \
      --set model.task=examples.keras_learner:Digits --set train.batch_size=32
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name a --task examples.keras_learner:Digits \
      --data data/digits/part-1
    python -m learner --leader 127.0.0.1:50051 --threads 1 --name b --task examples.keras_learner:Digits \
      --data data/digits/part-2
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from examples import sklearn_task
from examples.sklearn_task import CLASSES, PIXELS
from model.task import FitPlan

# Keras takes its backend when it is imported.
os.environ["KERAS_BACKEND"] = "tensorflow" if importlib.util.find_spec("tensorflow") else "jax"

import keras


def make_network(seed: int = 0) -> Any:
    """The Keras model, compiled."""
    # Seeds of Keras have 32 bits.
    first, second = map(
        keras.initializers.GlorotUniform, np.random.SeedSequence(seed).generate_state(2).tolist()
    )
    network = keras.Sequential(
        [
            keras.Input((PIXELS,)),
            keras.layers.Dense(64, "relu", kernel_initializer=first, name="hidden"),
            keras.layers.Dense(CLASSES, "softmax", kernel_initializer=second, name="output"),
        ]
    )
    network.compile("adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def weights_of(network: Any) -> dict[str, Tensor]:
    """Copies of its weights, by layer."""
    return {
        f"{layer.name}_{weight.name}": torch.from_numpy(np.array(weight.value))
        for layer in network.layers
        for weight in layer.weights
    }


def load_network(tensors: Mapping[str, Any]) -> Any:
    """The Keras model with these weights, such as those of a run's model.safetensors."""
    network = make_network()
    network.set_weights([np.asarray(tensors[name]) for name in weights_of(network)])
    return network


class Digits(sklearn_task.Digits):
    """Handwritten digits, from the files of the scikit-learn example."""

    def build_model(self, seed: int) -> nn.Module:
        """The weights of the Keras model, by the names of their layers; Keras alone computes with them."""
        model = nn.Module()
        for name, tensor in weights_of(make_network(seed)).items():
            model.register_parameter(name, nn.Parameter(tensor))
        return model

    def fit(self, model: nn.Module, examples: sklearn_task.Rows, plan: FitPlan) -> float:
        """One pass of Keras over the order's batches, from the model's weights."""
        network = load_network(model.state_dict())
        batches = ((examples.pixels[batch], examples.labels[batch]) for batch in plan.batches())
        history = network.fit(batches, shuffle=False, verbose=0).history
        model.load_state_dict(weights_of(network))
        return float(history["loss"][-1])

    def metrics(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Mapping[str, float]:
        """Accuracy (0..1) and loss, by Keras."""
        pixels, labels = (part.numpy(force=True) for part in batch)
        network = load_network(model.state_dict())
        scores: dict[str, float] = network.evaluate(pixels, labels, verbose=0, return_dict=True)
        return scores

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy."""
        return torch.tensor(self.metrics(model, batch)["loss"])
