"""Which known name somebody meant with a misspelt one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

_CLOSE = 0.65  # at 0.6, the default of difflib, "port" is close to "cohort"


def closest(asked: str, known: Mapping[str, Sequence[str]]) -> str | None:
    """The name in `known` that `asked` most likely means, or None.

    `known` gives each name's other spellings, such as a description. A dotted `asked` is compared by its
    last part, so that a right section doesn't make a wrong key look right; the whole breaks ties.

    >>> closest("train.learing_rate", {"train.lr": ["peak learning rate"], "train.warmup": []})
    'train.lr'
    """
    whole, last = _words(asked), _words(asked.rpartition(".")[2])

    def score(name: str) -> tuple[float, float]:
        spellings = (name, name.rpartition(".")[2], *known[name])
        return max(_similarity(last, _words(text)) for text in spellings), _similarity(whole, _words(name))

    best = max(known, key=score, default=None)
    return best if best is not None and score(best)[0] >= _CLOSE else None


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio()
