from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.codecs import KINDS, kind_of, make_codec
from utils.codecs.powersgd import PowerSgd
from utils.codecs.topk import TopK
from utils.errors import IncompatibleError

SPECS = ["bf16", "fp16", "int8", "int4", "topk:0.01", "topk:1e-05:0.5", "powersgd:1", "powersgd:256"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_codec_says_the_spec_that_it_was_made_of(spec: str) -> None:
    assert make_codec(spec).spec == spec
    assert kind_of(spec) == spec.partition(":")[0]


def test_every_kind_can_be_made() -> None:
    assert {kind_of(spec) for spec in SPECS} == set(KINDS)


def test_settings_reach_the_codec() -> None:
    assert make_codec("topk:0.02:0.1", momentum=0.9) == TopK(0.02, 0.1, 0.9)
    assert make_codec("topk:1") == TopK(1.0)
    assert make_codec("powersgd:4", momentum=0.9) == PowerSgd(4)


@given(st.floats(0, 1, exclude_min=True), st.floats(0, 1))
def test_any_share_of_values_can_be_said(fraction: float, warmup: float) -> None:
    spec = TopK(fraction, warmup).spec
    assert make_codec(spec) == TopK(fraction, warmup)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "none",
        "int",
        "INT8",
        " int8",
        "zstd",
        "int8\n",
        "topk" * 20,
        "topk:0.01:0." + "0" * 60,
        "int8" + ":" * 61,
    ],
)
def test_unknown_kinds_and_long_texts_are_refused(spec: str) -> None:
    with pytest.raises(IncompatibleError, match="must be one of bf16, fp16") as caught:
        kind_of(spec)
    assert len(str(caught.value)) < 300
    with pytest.raises(IncompatibleError):
        make_codec(spec)


WRONG = {
    "int8": ["", "256"],
    "bf16": ["1"],
    "topk": [
        "",
        "0",
        "0.0",
        "1.01",
        "-0.1",
        "nan",
        "inf",
        "0_1",
        "٠.١",
        ".1",
        " 0.1",
        "0.1\n",
        "1e5",
        "1e-999",
    ],
    "topk:0.1": ["", "1.1", "0.1:0.1"],
    "powersgd": ["", "0", "257", "1.0", "-1", "²", "1\n", "1:1"],
}


@pytest.mark.parametrize(
    "spec",
    ["topk", "powersgd", *(f"{kind}:{wrong}" for kind, settings in WRONG.items() for wrong in settings)],
)
def test_wrong_settings_are_refused(spec: str) -> None:
    with pytest.raises(IncompatibleError, match=r"is not known here: .*; install the same release"):
        make_codec(spec)


@given(st.text(max_size=70) | st.from_regex(r"(topk|powersgd|int8)(:[0-9.e-]{0,6}){0,3}", fullmatch=True))
def test_any_text_makes_a_codec_or_is_refused(spec: str) -> None:
    try:
        codec = make_codec(spec)
    except IncompatibleError:
        return
    assert make_codec(codec.spec).spec == codec.spec
