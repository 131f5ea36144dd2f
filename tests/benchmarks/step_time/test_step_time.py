from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.step_time.contenders import Ddp, Flockstep, Naive
from benchmarks.step_time.link import Usage
from benchmarks.step_time.plot import draw_step_time
from benchmarks.step_time.scene import Block
from benchmarks.step_time.step_time import FULL, Scene, summarise

LOOPBACK, _, SLOW = FULL
CODED = "Flockstep, int4 up, int4 down"


def blocks(*steps: float) -> list[Block]:
    return [Block(steps, 1.5, Usage(44_700_000, 45_000_000, 0.2), border_s=0.25)]


def measured(ours: float, ddp: float, compute: float, naive: float, coded: float) -> dict[str, list[Block]]:
    return {
        Flockstep.NAME: blocks(ours, ours, ours + 9),
        Ddp.SYNC: blocks(ddp),
        Ddp.LOCAL: blocks(compute),
        Naive.NAME: blocks(naive),
        CODED: blocks(coded),
    }


def test_communication_is_what_a_step_takes_beyond_compute() -> None:
    result = summarise({LOOPBACK: measured(ours=1.5, ddp=1.2, compute=1.0, naive=3.0, coded=1.0)})
    assert result.ratios[f"{LOOPBACK.name}: Flockstep, step to DDP's"] == pytest.approx(1.25)
    name = f"{LOOPBACK.name}: Flockstep, communication to the naive design's"
    assert result.ratios[name] == pytest.approx(0.25)


def test_communication_that_noise_covers_is_not_compared() -> None:
    result = summarise({LOOPBACK: measured(ours=1.5, ddp=1.2, compute=1.0, naive=1.04, coded=1.0)})
    assert [name for name in result.ratios if "communication" in name] == []


def test_targets_are_checked_where_their_scene_was_measured() -> None:
    result = summarise(
        {
            LOOPBACK: measured(ours=1.5, ddp=1.2, compute=1.0, naive=3.0, coded=1.0),
            SLOW: measured(ours=4.4, ddp=4.0, compute=0.2, naive=8.0, coded=0.4),
        }
    )
    assert [(round(target.value, 3), round(target.limit, 3), target.met) for target in result.targets] == [
        (1.25, 1.05, False),
        (0.5, 0.667, True),
        (0.1, 0.125, True),
    ]
    assert summarise({Scene(LOOPBACK.link, SLOW.compute): measured(1, 1, 1, 2, 1)}).targets == ()


def test_a_scene_meets_every_contender_once() -> None:
    names = [name for contender in SLOW.contenders() for name in contender.orders]
    parties = [party for contender in SLOW.contenders() for party in contender.parties]
    assert {Flockstep.NAME, Ddp.SYNC, Ddp.LOCAL, Naive.NAME, CODED} < set(names)
    assert len(set(names)) == len(names)
    assert len(set(parties)) == len(parties)


def test_the_plot_is_drawn_from_the_series(tmp_path: Path) -> None:
    result = summarise({scene: measured(1.5, 1.2, 1.0, 3.0, 1.0) for scene in (LOOPBACK, SLOW)})
    draw_step_time(result.series, tmp_path / "step_time.png")
    assert (tmp_path / "step_time.png").read_bytes().startswith(b"\x89PNG")
