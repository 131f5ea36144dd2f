"""Noise keys: the same over restarts, none of an earlier round, and the same update with the same noise."""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path

import numpy as np
import pytest

from learner.noise_key import NoiseKeys
from learner.secagg.member import Floors
from learner.secagg.sessions import MaskSessions
from learner.secagg.vow import Vows
from learner.training.update import Update
from learner.wire.masked_update import MaskedUpdate
from model.layout import Entry, Layout
from protos import leader_pb2
from tests.secagg import order, plan
from utils.errors import ConfigError, PayloadError

NOISE = leader_pb2.NoisePlan(clip=1.0, reach=50_000, spread=[32])
LAYOUT = Layout((Entry("w", (100,), 0, 100),), ())
UPDATE = Update(np.ones(100, np.float32), 24, 24, 0.5, 1.0)


def test_a_restart_has_the_key_of_the_round_and_none_of_an_earlier_one(tmp_path: Path) -> None:
    keys = NoiseKeys(tmp_path)
    third = keys.of("run", 3)
    assert len(third) == 32
    path = tmp_path / "noise-key.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert NoiseKeys(tmp_path).of("run", 3) == third
    fifth = NoiseKeys(tmp_path).of("run", 5)
    step = b"flockstep dp 1 next"
    assert fifth == hmac.digest(hmac.digest(third, step, "sha256"), step, "sha256") == keys.of("run", 5)
    assert third.hex() not in path.read_text()
    assert keys.of("run", 3) not in (third, fifth)  # it can't be found again


def test_another_run_and_a_round_far_away_have_keys_of_their_own() -> None:
    keys = NoiseKeys(None)
    drawn = [keys.of("run", 1), keys.of("other", 2), keys.of("other", 2**31), NoiseKeys(None).of("run", 1)]
    assert len(set(drawn)) == 4
    assert drawn[1] != hmac.digest(drawn[0], b"flockstep dp 1 next", "sha256")


@pytest.mark.parametrize("content", ["{", "[1]", '{"run": "r", "round": 1, "key": "00"}'])
def test_a_file_that_can_not_be_read_is_an_error_and_no_new_key(tmp_path: Path, content: str) -> None:
    (tmp_path / "noise-key.json").write_text(content)
    with pytest.raises(ConfigError, match="is no noise key"):
        NoiseKeys(tmp_path)


class Unmasked:
    """A member whose masks are nothing, so that what is in the update can be seen."""

    def __init__(self, session: bytes) -> None:
        self.session = session

    def mask(self, words: object, wide: object, model: bytes, *, threads: int) -> None:
        """See MaskMember."""


def sent(folder: Path, session: bytes, *, round_: int = 4) -> bytes:
    """The bytes that a learner started with this folder would send, less the masks."""
    asked = order("a", plan(4), noise=NOISE, round=round_)
    masks = MaskSessions(Vows(folder), Floors(), 24, noise_keys=NoiseKeys(folder))
    masks.registered("a", "run")

    async def ready(work_id: str) -> Unmasked:
        return Unmasked(session)

    masks.ready = ready  # type: ignore[method-assign, assignment]
    made, _ = MaskedUpdate.of(asked, UPDATE, np.zeros(100, np.float32), LAYOUT)
    return asyncio.run(made.travelling(masks)).file.body.tobytes()


def test_an_update_that_is_made_and_sent_again_has_the_same_bits_in_any_session(tmp_path: Path) -> None:
    first = sent(tmp_path, b"s" * 16)
    assert sent(tmp_path, b"t" * 16) == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = [sent(tmp_path, b"s" * 16, round_=5), sent(elsewhere, b"s" * 16)]
    assert len({first, *other}) == 3


def test_an_update_with_noise_says_neither_its_loss_nor_what_saturated(tmp_path: Path) -> None:
    made, _ = MaskedUpdate.of(order("a", plan(4), noise=NOISE), UPDATE, np.zeros(100, np.float32), LAYOUT)
    assert made.wide.tolist() == [24, 0, 0]
    assert np.square(made.words.view(np.int32).astype(np.int64)).sum() <= NOISE.reach**2


def test_buffers_do_not_travel_beside_the_noise() -> None:
    layout = Layout((Entry("w", (60,), 0, 60),), (Entry("b", (40,), 60, 40),))
    with pytest.raises(PayloadError, match="buffers that would travel without noise"):
        MaskedUpdate.of(order("a", plan(4), noise=NOISE), UPDATE, np.zeros(100, np.float32), layout)
