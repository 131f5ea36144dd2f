from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from model.flat import FlatModel
from model.layout import Layout
from model.networks.initialisation import uniform
from model.registry import build_model, model_names
from utils.errors import ConfigError

#: With batch norm and 10 classes. The paper says 0.27 M and 0.85 M for the 20 and 56 layers of
#: section 4.2; those with a 3x3 stem are the counts that public CIFAR-10 implementations report.
PARAMETERS = {
    "resnet9-w16": 412_954,
    "resnet9-w8": 103_954,
    "resnet9-w64": 6_573_130,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_173_962,
    "resnet34": 21_282_122,
    "resnet50": 23_520_842,
}

#: Layers with weights on the way from image to logits, which the names count.
DEPTHS = {"resnet20": 20, "resnet56": 56, "resnet18": 18, "resnet34": 34, "resnet50": 50}


def initial_vector(seed: int) -> torch.Tensor:
    return FlatModel(build_model("resnet9-w16", seed=seed)).snapshot()


def test_every_model_has_a_published_count_here() -> None:
    assert set(model_names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    assert Layout.of(build_model(name)).parameter_count == PARAMETERS[name]


@pytest.mark.parametrize("name", DEPTHS)
def test_the_number_in_the_name_is_the_depth(name: str) -> None:
    layers = [m for m in build_model(name).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    projections = [m for m in layers if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    if name in ("resnet18", "resnet34"):
        assert len(layers) - len(projections) == DEPTHS[name]
    elif name == "resnet50":
        assert len(layers) - 4 == DEPTHS[name]  # one projection a stage
    else:
        assert projections == []
        assert len(layers) == DEPTHS[name]


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_images_become_finite_logits_of_the_classes(name: str, norm: str) -> None:
    model = build_model(name, classes=7, norm=norm)
    with torch.no_grad():
        logits = model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize("name", PARAMETERS)
def test_group_norm_has_no_buffers_and_the_same_parameter_count(name: str) -> None:
    model = build_model(name, norm="group")
    assert list(model.buffers()) == []
    assert Layout.of(model).total == PARAMETERS[name]


@pytest.mark.parametrize("size", [32, 8, 40])
def test_resnet9_takes_images_of_other_sizes(size: int) -> None:
    assert build_model("resnet9-w16")(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_initial_weights_are_pinned_to_the_bit() -> None:
    digest = hashlib.sha256(initial_vector(0).numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == "de76d3b1ae474b31210089883ce9bd76fbc63ca1801b11e1fabc081c84f7a63e"


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    torch.manual_seed(1)
    first = initial_vector(5)
    torch.manual_seed(2)
    assert torch.equal(initial_vector(5), first)
    assert not torch.equal(initial_vector(6), first)


def test_building_leaves_the_random_state_of_torch_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    build_model("resnet9-w16")
    assert torch.equal(torch.rand(1), expected)


def test_weights_fill_their_bounds_and_normalisation_is_the_identity() -> None:
    model = build_model("resnet9-w16")
    conv = model.get_parameter("blocks.4.body.0.conv.weight")
    linear = model.get_parameter("head.linear.weight")

    for weight, bound in ((conv, (6 / (128 * 9)) ** 0.5), (linear, (3 / 128) ** 0.5)):
        assert 0.99 * bound < weight.abs().max().item() <= bound * (1 + 1e-6)
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert torch.equal(model.get_parameter("head.linear.bias"), torch.zeros(10))
    assert torch.equal(model.get_parameter("stem.layer.norm.weight"), torch.ones(16))
    assert torch.equal(model.get_buffer("stem.layer.norm.running_var"), torch.ones(16))


def test_what_travels_is_enough_to_restore_a_model_strictly() -> None:
    source, target = build_model("resnet9-w16", seed=1), build_model("resnet9-w16", seed=2)
    flat = FlatModel(source)
    travelling = {e.name: source.state_dict()[e.name] for e in flat.layout.entries}

    target.load_state_dict(travelling, strict=True)

    assert torch.equal(FlatModel(target).vector, flat.vector)


def test_uniform_numbers_are_fractions_of_two_to_the_23() -> None:
    numbers = uniform(1000, seed=1)
    assert numbers.dtype == np.float32
    assert -1 <= numbers.min() < -0.99 < 0.99 < numbers.max() < 1
    assert np.array_equal(numbers.astype(np.float64) * 2**23 % 1, np.zeros(1000))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "resnet21",
            "model.name is 'resnet21'; did you mean 'resnet20'? allowed: resnet9-w16, resnet9-w8, resnet9-w64",
        ),
        ("", "model.name is ''; allowed: resnet9-w16"),
    ],
)
def test_unknown_names_are_refused_with_what_is_allowed(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_model(name)
    assert str(caught.value).startswith(message)


def test_unknown_norms_and_too_few_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.norm is 'layer'; allowed: batch, group"):
        build_model("resnet20", norm="layer")
    with pytest.raises(ConfigError, match=r"model\.classes is 1; it must be 2 or more"):
        build_model("resnet20", classes=1)
