from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from PIL import Image

from leader.events import RunStarted
from leader.reporting.curves import curves_figure, curves_title, draw_curves
from leader.storage.metrics_log import Record


def records(count: int, every: int = 1, first_down: int = 2_000_000) -> list[Record]:
    made: list[Record] = []
    for number in range(1, count + 1):
        down = first_down if number == 1 else 2_000_000
        record: dict[str, Any] = {"round": number, "loss": 2 / number, "seconds": 10.0 + number % 3}
        record |= {"bytes_up": 1_000_000, "bytes_down": down}
        if every and number % every == 0:
            record["test_accuracy"] = 1 - 0.5 / number
        made.append(record)
    return made


def scored(made: list[Record], every: int = 2, name: str = "accuracy") -> list[Record]:
    """Learners scored every second model: half of them well, the worst tenth badly."""
    for record in made[:: every or 1]:
        record["federated"] = {name: {"mean": 0.5, "worst_decile": 0.25}}
    return made


def panels(made: list[Record]) -> dict[str, Axes]:
    return {axes.get_title(loc="left"): axes for axes in curves_figure(made, "title").axes}


def values(axes: Axes, line: int = 0) -> list[tuple[float, float]]:
    x, y = axes.lines[line].get_data()
    return list(zip(np.asarray(x).tolist(), np.asarray(y).tolist(), strict=True))


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("count", [0, 1, 10, 300, 10_000])
def test_the_picture_decodes_at_any_number_of_rounds(tmp_path: Path, count: int) -> None:
    path = tmp_path / "curves.png"
    draw_curves(records(count), path, "resnet9-w16 on cost$$ data")
    with Image.open(path) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1320, 888))
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]


#: In all other tests runs leave their curves undrawn.
KINDS: dict[str, list[Record]] = {
    "never evaluated": records(3, every=0),
    "once": scored(records(1)),
    "at the learners too": scored(records(300), every=1),
    "at the learners alone": scored(records(4, every=0)),
    "a metric of one's own": scored(records(3, every=0), name="mae"),
    "private": [record | {"loss": None, "epsilon": record["round"]} for record in records(3)],
    "rounds without a loss": [record | {"loss": None} for record in records(3)],
    "with the data": records(5, first_down=200_000_000),
    "abandoned": [{"round": 1, "abandoned": True, "seconds": 0.0, "bytes_up": 0, "bytes_down": 0}],
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_picture_of_each_kind_of_run_is_drawn(tmp_path: Path, kind: str) -> None:
    draw_curves(KINDS[kind], tmp_path / "curves.png", kind)
    with Image.open(tmp_path / "curves.png") as image:
        assert np.ptp(np.asarray(image.convert("L"))) > 100  # from white to ink


def test_each_panel_shows_its_values() -> None:
    shown = panels(records(4, every=2))
    assert list(shown) == ["Training loss", "Test accuracy (%)", "Seconds a round", "Megabytes a round"]
    assert values(shown["Training loss"]) == [(1, 2.0), (2, 1.0), (3, 2 / 3), (4, 0.5)]
    assert values(shown["Test accuracy (%)"]) == [(2, 75.0), (4, 87.5)]
    assert texts(shown["Test accuracy (%)"]) == ["87.50%"]
    assert values(shown["Seconds a round"]) == [(1, 11.0), (2, 12.0), (3, 10.0), (4, 11.0)]
    traffic = shown["Megabytes a round"]
    assert [line.get_label() for line in traffic.lines] == ["up", "down"]
    assert values(traffic, 0)[0] == (1, 1.0)
    assert values(traffic, 1)[3] == (4, 2.0)


@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_rounds_are_marked_by_integers_that_exist(count: int) -> None:
    ticks = panels(records(count))["Training loss"].get_xticks().tolist()
    assert ticks
    assert all(tick == int(tick) and 1 <= tick <= count for tick in ticks)


def test_a_run_without_evaluation_says_so() -> None:
    assert texts(panels(records(3, every=0))["Test accuracy (%)"]) == ["not evaluated"]


def test_many_rounds_are_thinned_but_keep_their_ends_and_extremes() -> None:
    made = records(10_000)
    made[5001]["loss"] = 50.0
    drawn = values(panels(made)["Training loss"])
    assert len(drawn) <= 2000
    assert (drawn[0], drawn[-1]) == ((1, 2.0), (10_000, 0.0002))
    assert (5002, 50.0) in drawn
    assert drawn == sorted(drawn)


def test_a_round_without_a_finite_loss_is_left_out() -> None:
    made = records(3)
    made[1]["loss"] = None
    assert values(panels(made)["Training loss"]) == [(1, 2.0), (3, 2 / 3)]


def test_the_round_that_brings_the_data_does_not_flatten_the_traffic() -> None:
    assert panels(records(5))["Megabytes a round"].get_yscale() == "linear"
    assert panels(records(5, first_down=200_000_000))["Megabytes a round"].get_yscale() == "log"


def test_the_title_names_model_and_dataset() -> None:
    started = RunStarted("r", Path("r"), "synthetic shapes (drawn)", "resnet20", 1, "gradient", 1, "h:1", 1)
    assert curves_title(started) == "resnet20 on synthetic shapes (drawn), gradient exchange"
    figure = curves_figure(records(1), curves_title(started))
    assert figure.get_suptitle() == "resnet20 on synthetic shapes (drawn), gradient exchange"


def test_what_learners_score_is_a_line_with_a_band_down_to_the_worst() -> None:
    shown = panels(scored(records(4)))["Test accuracy (%)"]
    assert values(shown, 0) == [(1, 50.0), (3, 50.0)]
    assert values(shown, 1)[3] == (4, 87.5)
    [band] = shown.collections
    [path] = band.get_paths()
    assert {(x, y) for x, y in np.asarray(path.vertices).tolist()} == {(1, 50), (3, 50), (1, 25), (3, 25)}
    legend = shown.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["at the learners", "to their worst 10%"]
    assert texts(shown) == ["87.50%"]


def test_without_a_test_split_the_panel_is_that_of_the_learners() -> None:
    shown = panels(scored(records(4, every=0)))["Accuracy (%)"]
    assert texts(shown) == ["50.00%"]


def test_another_metric_is_drawn_under_its_name_without_per_cent() -> None:
    made = scored(records(3, every=0), name="mae")
    for record in made:
        record |= {"test_loss": 1.0, "test_mae": 4.0 - record["round"]}
    shown = panels(made)["Test mae"]
    assert values(shown, 1) == [(1, 3.0), (2, 2.0), (3, 1.0)]
    assert texts(shown) == ["1.00"]


def test_a_band_over_many_rounds_is_thinned_to_the_same_rounds_on_both_sides() -> None:
    shown = panels(scored(records(10_000), every=1))["Test accuracy (%)"]
    drawn = values(shown, 0)
    assert len(drawn) == 2000
    assert drawn[-1] == (10_000, 50.0)


def test_a_private_run_shows_what_it_has_spent_where_others_show_their_loss() -> None:
    made = [record | {"loss": None, "epsilon": 1.5 * record["round"]} for record in records(3)]
    shown = panels(made)
    assert next(iter(shown)) == "Epsilon spent"
    assert values(shown["Epsilon spent"]) == [(1, 1.5), (2, 3.0), (3, 4.5)]
