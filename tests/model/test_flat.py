from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from model.flat import FlatModel
from model.layout import Entry, Layout
from model.registry import build_model
from utils.errors import ConfigError, IncompatibleError


def small_net(features: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, features, 3), nn.BatchNorm2d(features), nn.Flatten(), nn.Linear(4 * features, 5)
    )


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_layout_is_parameters_in_order_then_float_buffers_without_gaps() -> None:
    layout = Layout.of(small_net())

    assert layout.parameters == (
        Entry("0.weight", (3, 3, 3, 3), 0, 81),
        Entry("0.bias", (3,), 81, 3),
        Entry("1.weight", (3,), 84, 3),
        Entry("1.bias", (3,), 87, 3),
        Entry("3.weight", (5, 12), 90, 60),
        Entry("3.bias", (5,), 150, 5),
    )
    assert layout.buffers == (Entry("1.running_mean", (3,), 155, 3), Entry("1.running_var", (3,), 158, 3))
    assert layout.entries == layout.parameters + layout.buffers
    assert (layout.parameter_count, layout.total) == (155, 161)


def test_module_keeps_its_values_when_it_moves_into_the_vector() -> None:
    module = small_net()
    before = {name: value.clone() for name, value in module.state_dict().items()}

    flat = FlatModel(module)

    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for entry in flat.layout.entries:
        inside = flat.vector[entry.start : entry.start + entry.size]
        assert torch.equal(inside, before[entry.name].flatten()), entry.name


def test_vector_and_module_are_the_same_memory() -> None:
    module = small_net()
    flat = FlatModel(module)

    flat.vector.fill_(2.0)
    assert all((p == 2).all() for p in module.parameters())
    assert (module.get_buffer("1.running_mean") == 2).all()

    with torch.no_grad():
        module.get_parameter("3.bias").fill_(7.0)
        module.get_buffer("1.running_var").fill_(8.0)
    assert torch.equal(flat.vector[150:155], torch.full((5,), 7.0))
    assert torch.equal(flat.vector[158:161], torch.full((3,), 8.0))


def test_training_forward_updates_the_batch_norm_statistics_in_the_vector() -> None:
    flat = FlatModel(build_model("resnet9-w16"))
    before = flat.snapshot()

    flat.module(images())

    count = flat.layout.parameter_count
    assert torch.equal(flat.vector[:count], before[:count])
    assert (flat.vector[count:] != before[count:]).all()


def test_channels_last_weights_are_stored_in_their_logical_order() -> None:
    module = small_net()
    weight = module.get_parameter("0.weight").detach().clone()

    flat = FlatModel(module.to(memory_format=torch.channels_last))

    assert torch.equal(flat.vector[:81], weight.flatten())
    assert module.get_parameter("0.weight").is_contiguous()


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", ["resnet9-w16", "resnet20"])
def test_gradients_land_in_the_flat_gradient_and_equal_an_ordinary_modules(
    name: str, channels_last: bool, bfloat16: bool, norm: str
) -> None:
    plain = build_model(name, norm=norm)
    flat = FlatModel(copy.deepcopy(plain))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, y = images().contiguous(memory_format=layout), torch.tensor([0, 1, 2, 3])

    for _ in range(2):
        for module in (plain, flat.module):
            arithmetic: AbstractContextManager[object] = (
                torch.autocast("cpu", torch.bfloat16) if bfloat16 else nullcontext()
            )
            with arithmetic:
                logits = module(x)
            torch.autograd.backward(F.cross_entropy(logits.float(), y))

    expected = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
    assert torch.count_nonzero(expected) > 0.5 * flat.layout.parameter_count
    assert torch.equal(flat.gradient, expected)
    for entry, parameter in zip(flat.layout.parameters, flat.module.parameters(), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.data_ptr() == flat.gradient[entry.start :].data_ptr(), entry.name


def test_zero_gradient_keeps_the_views() -> None:
    flat = FlatModel(nn.Linear(2, 1))
    flat.module(torch.ones(1, 2)).sum().backward()
    flat.zero_gradient()
    assert torch.equal(flat.gradient, torch.zeros(3))

    flat.module(torch.tensor([[3.0, 4.0]])).sum().backward()
    assert torch.equal(flat.gradient, torch.tensor([3.0, 4.0, 1.0]))


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=11, max_size=11))
def test_what_is_loaded_is_what_a_snapshot_returns(values: list[float]) -> None:
    flat = FlatModel(nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(2)))
    array = np.array(values, dtype=np.float32)

    flat.load(array)
    assert flat.snapshot().numpy().tobytes() == array.tobytes()

    flat.load(torch.zeros(11))
    assert torch.count_nonzero(flat.vector) == 0


def test_load_takes_read_only_arrays_over_received_bytes() -> None:
    flat = FlatModel(nn.Linear(2, 1))
    flat.load(np.frombuffer(np.array([1, 2, 3], "<f4").tobytes(), "<f4"))
    assert torch.equal(flat.vector, torch.tensor([1.0, 2.0, 3.0]))


def test_snapshot_does_not_follow_the_model() -> None:
    flat = FlatModel(nn.Linear(2, 1))
    flat.load(torch.tensor([1.0, 2.0, 3.0]))
    before = flat.snapshot()
    flat.vector.add_(1.0)
    assert torch.equal(before, torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize("values", [torch.zeros(4), torch.zeros(3, 1), torch.zeros(3, dtype=torch.float64)])
def test_values_of_another_shape_or_dtype_are_refused(values: Tensor) -> None:
    flat = FlatModel(nn.Linear(2, 1))
    before = flat.snapshot()
    with pytest.raises(IncompatibleError, match=r"this model has torch.float32 \(3,\)"):
        flat.load(values)
    assert torch.equal(flat.vector, before)


def test_equal_layouts_have_equal_digests() -> None:
    assert Layout.of(small_net()).digest() == Layout.of(small_net()).digest()
    assert len(Layout.of(small_net()).digest()) == 64


@pytest.mark.parametrize(
    "other",
    [
        small_net(features=4),  # shapes
        nn.Sequential(*small_net().children(), nn.Linear(5, 5)),  # one more
        nn.Sequential(small_net()),  # names
    ],
)
def test_other_layouts_have_other_digests(other: nn.Module) -> None:
    assert Layout.of(other).digest() != Layout.of(small_net()).digest()


def test_a_buffer_in_place_of_a_parameter_changes_the_digest() -> None:
    carried = nn.Linear(2, 1)
    del carried.bias
    carried.register_buffer("bias", torch.zeros(1))
    assert Layout.of(carried).digest() != Layout.of(nn.Linear(2, 1)).digest()


def test_frozen_parameters_have_no_place_and_no_gradient() -> None:
    module = nn.Linear(2, 1)
    module.weight.requires_grad_(False)
    flat = FlatModel(module)
    module(torch.ones(1, 2)).sum().backward()

    assert [e.name for e in flat.layout.parameters] == ["bias"]
    assert (flat.layout.buffers, flat.layout.total) == ((), 1)
    assert torch.equal(flat.gradient, torch.tensor([1.0]))
    assert module.weight.grad is None


def frozen(**changed: Tensor | None) -> str:
    """The fingerprint of a frozen layer, with other values by name, under a head that trains."""
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    values = {"weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "bias": torch.zeros(2), **changed}
    for name, value in values.items():
        kept = None if value is None else nn.Parameter(value, requires_grad=False)
        setattr(module[0], name, kept)
    return Layout.of(module).frozen


def test_the_fingerprint_of_what_is_frozen_tells_each_bit_dtype_shape_and_name() -> None:
    assert Layout.of(nn.Linear(2, 1)).frozen == ""
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    others = [
        frozen(weight=weight.bfloat16()),  # what is frozen need not be float32
        frozen(weight=weight.T),
        frozen(weight=weight.nextafter(torch.tensor(9.0))),
        frozen(weight=weight.reshape(4)),
        frozen(bias=None),
        frozen(bias=torch.tensor([0.0, -0.0])),
    ]
    assert frozen() == frozen(weight=weight.T.contiguous().T)  # whatever lies where in memory
    assert len({frozen(), *others}) == 7
    assert {len(one) for one in others} == {64}


def test_integer_buffers_and_buffers_that_are_not_saved_stay_local() -> None:
    module = small_net()
    module.register_buffer("scratch", torch.ones(2), persistent=False)
    assert {e.name for e in Layout.of(module).buffers} == {"1.running_mean", "1.running_var"}


def test_tied_parameters_are_one_entry_and_stay_tied() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    flat = FlatModel(nn.Sequential(first, second))

    assert [e.name for e in flat.layout.parameters] == ["0.weight"]
    flat.load(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert torch.equal(second.weight, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    flat.module(torch.ones(1, 2)).sum().backward()
    # d/dW of sum(W W 1) is (W^T 1) 1^T + 1 (W 1)^T.
    assert torch.equal(flat.gradient, torch.tensor([7.0, 11.0, 9.0, 13.0]))


def test_parameters_that_share_memory_without_being_tied_are_refused() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight.data = first.weight.data
    with pytest.raises(ConfigError, match=r"'0\.weight' and '1\.weight'.*share memory"):
        FlatModel(nn.Sequential(first, second))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_parameters_that_are_not_float32_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match=r"'weight' is torch.*it must be torch.float32"):
        FlatModel(nn.Linear(2, 1).to(dtype))


def test_buffers_that_are_not_float32_are_refused() -> None:
    module = nn.Linear(2, 1)
    module.register_buffer("scale", torch.ones(1, dtype=torch.float64))
    with pytest.raises(ConfigError, match=r"'scale' is torch\.float64"):
        Layout.of(module)


def test_a_module_without_parameters_has_an_empty_vector() -> None:
    flat = FlatModel(nn.ReLU())
    assert flat.layout == Layout((), ())
    assert flat.vector.shape == flat.gradient.shape == (0,)


def test_names_that_match_a_pattern_are_kept_local() -> None:
    layout = Layout.of(small_net()).keeping(["1.*", "*.bias"])
    assert layout.local == {"0.bias", "1.weight", "1.bias", "3.bias", "1.running_mean", "1.running_var"}
    assert [entry.name for entry in layout.shared] == ["0.weight", "3.weight"]
    assert layout.entries == Layout.of(small_net()).entries
    everything = Layout.of(small_net()).keeping([])
    assert (everything.local, everything.shared) == (frozenset(), everything.entries)
    assert Layout((), ()).keeping([]) == Layout((), ())


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (["1.*", "norm.*"], "model.local: 'norm.*' matches no tensor of the model; its first is '0.weight'"),
        (["*"], "model.local: every parameter would stay local, so nothing would be trained together"),
        (
            ["*.weight", "*.bias"],
            "model.local: every parameter would stay local, so nothing would be trained together",
        ),
    ],
)
def test_patterns_that_keep_nothing_or_everything_are_refused(patterns: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Layout.of(small_net()).keeping(patterns)
    assert str(caught.value) == message


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_fragments_are_whole_tensors_about_equally_large_and_buffers_are_in_all(count: int) -> None:
    layout = Layout.of(build_model("resnet18"))
    fragments = [layout.fragment(number, count) for number in range(count)]
    split, buffers = layout.parameter_count, set(layout.buffers)
    shared = [[entry for entry in one.shared if entry.start < split] for one in fragments]
    assert sorted((e for entries in shared for e in entries), key=lambda e: e.start) == list(
        layout.parameters
    )
    assert all(buffers <= set(one.shared) for one in fragments)
    largest = max(entry.size for entry in layout.parameters)
    assert max(sum(entry.size for entry in entries) for entries in shared) <= max(
        largest, 1.1 * split / count
    )


def test_fragments_do_not_depend_on_the_order_of_the_tensors() -> None:
    shapes = {"a": 4, "b": 6, "c": 4, "d": 5, "e": 5}
    for names in ("abcde", "edcba", "cadbe"):
        layout = Layout(tuple(Entry(name, (shapes[name],), 0, shapes[name]) for name in names), ())
        assert layout.fragment(0, 2).local == {"d", "e"}
        assert layout.fragment(1, 2).local == {"a", "b", "c"}


def test_local_tensors_are_in_no_fragment() -> None:
    layout = Layout.of(small_net()).keeping(["1.*"])
    fragments = [layout.fragment(number, 2) for number in range(2)]
    names = {entry.name for one in fragments for entry in one.shared}
    assert names == {"0.weight", "0.bias", "3.weight", "3.bias"}


@pytest.mark.parametrize(("number", "count"), [(0, 7), (2, 2), (-1, 2), (0, 0), (0, 1 << 31)])
def test_fragments_that_there_can_not_be_are_refused(number: int, count: int) -> None:
    with pytest.raises(ConfigError, match=f"fragment {number} of {count}: the model has 6 tensors"):
        Layout.of(small_net()).fragment(number, count)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gradients_land_in_the_flat_gradient_on_cuda() -> None:
    device = torch.device("cuda")
    flat = FlatModel(build_model("resnet9-w16"), device)
    x, y = images().to(device, memory_format=torch.channels_last), torch.tensor([0, 1, 2, 3], device=device)
    with torch.autocast("cuda", torch.bfloat16):
        loss = F.cross_entropy(flat.module(x), y)
    torch.autograd.backward(loss)

    assert flat.vector.device.type == flat.gradient.device.type == "cuda"
    assert torch.count_nonzero(flat.gradient) > 0.5 * flat.layout.parameter_count
