"""Codecs by their specs, such as "int8" or "topk:0.01:0.1"."""

from __future__ import annotations

import re
from dataclasses import replace

from utils.codecs.base import Codec
from utils.codecs.half import Bf16, Fp16
from utils.codecs.int4 import Int4
from utils.codecs.int8 import Int8
from utils.codecs.powersgd import PowerSgd
from utils.codecs.topk import TopK
from utils.errors import IncompatibleError

#: Kinds of codecs that this release can read and write.
KINDS = ("bf16", "fp16", "int8", "int4", "topk", "powersgd")
#: What a learner says beside them (LearnerInfo.codecs) if it knows pieces that have parts of tensors.
CUT = "cut"
MAX_RANK = 256
_PLAIN: dict[str, type[Codec]] = {"bf16": Bf16, "fp16": Fp16, "int8": Int8, "int4": Int4}
_MAX_CHARACTERS = 64
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?(e-[0-9]+)?")
_WHOLE = re.compile(r"[0-9]{1,3}")


def kind_of(spec: str) -> str:
    """The kind of codec that `spec` names; raises IncompatibleError if this release does not know it."""
    kind = spec.partition(":")[0]
    if len(spec) > _MAX_CHARACTERS or kind not in KINDS:
        raise _refusal(spec, f"its kind must be one of {', '.join(KINDS)}")
    return kind


def make_codec(spec: str, *, momentum: float = 0.0, nesterov: bool = False) -> Codec:
    """The codec that `spec` says: "bf16", "fp16", "int8", "int4", "topk:FRACTION[:WARMUP]" or "powersgd:RANK".

    `momentum`, and whether it is `nesterov`, is for codecs that correct for it (topk, see there); others do without.
    Raises IncompatibleError for a spec that this release does not know.
    """
    kind = kind_of(spec)
    settings = spec.split(":")[1:]
    if kind == "topk":
        return replace(_topk(spec, settings), momentum=momentum, nesterov=nesterov)
    if kind == "powersgd":
        return _powersgd(spec, settings)
    if settings:
        raise _refusal(spec, f"{kind} has no settings")
    return _PLAIN[kind]()


def _topk(spec: str, settings: list[str]) -> TopK:
    if len(settings) not in (1, 2) or not all(map(_NUMBER.fullmatch, settings)):
        raise _refusal(spec, "it must be topk:FRACTION or topk:FRACTION:WARMUP")
    fraction, warmup = float(settings[0]), float(settings[1]) if settings[1:] else 0.0
    if not (0 < fraction <= 1 and 0 <= warmup <= 1):
        raise _refusal(spec, "the fraction must be above 0 and at most 1, and the warm-up from 0 to 1")
    return TopK(fraction, warmup)


def _powersgd(spec: str, settings: list[str]) -> PowerSgd:
    if len(settings) != 1 or not _WHOLE.fullmatch(settings[0]) or not 1 <= int(settings[0]) <= MAX_RANK:
        raise _refusal(spec, f"it must be powersgd:RANK, of a rank from 1 to {MAX_RANK}")
    return PowerSgd(int(settings[0]))


def _refusal(spec: str, reason: str) -> IncompatibleError:
    return IncompatibleError(
        f"codec {spec[:_MAX_CHARACTERS]!r} is not known here: {reason}; install the same release on both sides"
    )
