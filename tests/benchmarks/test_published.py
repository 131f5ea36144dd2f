from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.outcome.niid import FLOWER
from benchmarks.outcome.niid_parts import niid_split, nvflare_split
from benchmarks.outcome.niid_task import Niid
from benchmarks.outcome.nvflare import NVFLARE
from benchmarks.outcome.nvflare_task import ModerateCnn
from benchmarks.outcome.published_table import QUICK, Cell, Size, Table
from benchmarks.outcome.study import Curve
from benchmarks.published import TABLES, main, result, rounds_done
from scripts.partition import Split
from utils.datasets import Dataset
from utils.datasets.cifar10 import BINARY_FOLDER

CLASSES = tuple(str(number) for number in range(10))
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 100))


def drawn(labels: np.ndarray) -> Dataset:
    """Images whose brightness is their label."""
    images = np.broadcast_to((labels * 25).astype(np.uint8)[:, None, None, None], (len(labels), 3, 32, 32))
    return Dataset("drawn", np.array(images), labels, CLASSES)


def write_cifar10(folder: Path, labels: np.ndarray = LABELS) -> None:
    folder.mkdir(parents=True)
    data = drawn(labels)
    records = np.concatenate(
        [data.labels.astype(np.uint8)[:, None], data.images.reshape(len(data), -1)], axis=1
    )
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        (folder / f"{name}.bin").write_bytes(records[number % 5 :: 5].tobytes())


def test_the_network_has_the_parameters_of_the_baselines_and_its_function() -> None:
    model = Niid().build_model(3)
    assert sum(value.numel() for value in model.parameters()) == 62_006
    images = torch.rand(4, 3, 32, 32)
    first, second, *linear = [layer for layer in model.children() if list(layer.parameters())]
    pool, relu = torch.nn.functional.max_pool2d, torch.relu
    features = pool(relu(second(pool(relu(first(images)), 2))), 2).flatten(1)
    expected = linear[2](relu(linear[1](relu(linear[0](features)))))
    assert torch.allclose(model(images), expected, atol=1e-6)
    again = Niid().build_model(3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_second_network_has_the_layers_of_nvflares_and_one_start_for_all_seeds() -> None:
    """First and last weights are those of the examples' own model, at the revision that the page names."""
    model = ModerateCnn().build_model(3)
    assert sum(value.numel() for value in model.parameters()) == 3_491_530
    shapes = [tuple(value.shape) for value in model.parameters() if value.dim() > 1]
    sides = [(32, 3), (64, 32), (128, 64), (128, 128), (256, 128), (256, 256)]
    assert shapes == [*((*each, 3, 3) for each in sides), (512, 4096), (512, 512), (10, 512)]
    dropouts = [layer for layer in model.children() if isinstance(layer, (nn.Dropout, nn.Dropout2d))]
    assert [layer.p for layer in dropouts] == [0.05, 0.1, 0.1]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    first, *_, last = model.parameters()
    assert torch.allclose(first[0, 0, 0], torch.tensor([0.1471355, 0.1597351, -0.0450858]))
    assert torch.allclose(last[:2], torch.tensor([-0.0142250, -0.0287680]))
    again = ModerateCnn().build_model(4).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("table", "column"), [(table, column) for table in TABLES.values() for column in table.columns]
)
def test_each_example_is_in_one_part(table: Table, column: str) -> None:
    split = table.columns[column].split(drawn(LABELS))
    assert len(split.parts) == table.learners
    assert np.array_equal(np.sort(np.concatenate(split.parts)), np.arange(len(LABELS)))
    if (classes := split.classes_per_shard) is not None:
        assert np.count_nonzero(split.counts, axis=1).tolist() == [classes] * table.learners


def test_labels_of_two_classes_each_are_the_baselines() -> None:
    """Drawn once by the baseline's own code, at the revision that the page names, with its seed."""
    counts = niid_split(drawn(LABELS), "classes", 2).counts
    held = [tuple(np.flatnonzero(row).tolist()) for row in counts]
    assert held == [(0, 7), (1, 6), (2, 4), (3, 4), (4, 8), (0, 5), (2, 6), (0, 7), (5, 8), (7, 9)]
    assert counts[:, 9].tolist() == [0] * 9 + [100]
    assert sorted(counts[:, 0])[-3:] == [33, 33, 34]


def test_parts_of_much_skew_are_nvflares() -> None:
    """Drawn once by the examples' own code, at the revision that the page names, with its seed."""
    counts = nvflare_split(drawn(LABELS), 0.1).counts
    assert counts.sum(axis=1).tolist() == [145, 37, 173, 173, 87, 85, 129, 171]
    assert counts[0].tolist() == [0, 7, 0, 44, 0, 19, 18, 57, 0, 0]
    assert counts[7].tolist() == [78, 1, 90, 1, 0, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    "split", [niid_split(drawn(LABELS), "dirichlet", None), nvflare_split(drawn(LABELS), 1.0)]
)
def test_a_part_with_its_even_share_gets_no_more_labels(split: Split) -> None:
    counts = split.counts
    before = np.cumsum(counts, axis=1) - counts
    assert counts[before >= len(LABELS) / len(split.parts)].max() <= 1  # what rounding leaves
    assert counts.sum(axis=1).min() >= 10


def test_the_network_sees_pixels_from_0_to_1() -> None:
    seen: list[torch.Tensor] = []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return images[:, 0, 0, :10]

    batch = Niid().make_batch(drawn(np.arange(10)), np.array([3, 7]), None)
    Niid().metrics(model, batch)  # type: ignore[arg-type]
    assert torch.allclose(seen[0][:, 1, 5, 5], torch.tensor([75 / 255, 175 / 255]))


@pytest.mark.parametrize(
    ("table", "cell", "value", "limit"),
    [
        (FLOWER, Cell("two_classes", "FedAvg", 0), -0.83, 1.0),
        (FLOWER, Cell("dirichlet", "skewed", 0), 16.08, 0.0),
        (NVFLARE, Cell("alpha_0.1", "FedOpt", 0), 28.58, 1.0),
    ],
)
def test_a_run_is_measured_by_its_best_round_against_its_own_and_the_best_figure(
    table: Table, cell: Cell, value: float, limit: float
) -> None:
    curve = Curve(0.5, 60.0, [1, 2], [0.52, 0.5], [1.0, 2.0])
    target = result(table.columns[cell.column], cell, curve).target
    assert target is not None
    assert (round(target.value, 2), target.limit) == (value, limit)


def test_a_peers_algorithm_is_run_where_it_has_a_figure_and_ours_everywhere() -> None:
    assert NVFLARE.columns["alpha_0.1"].best == 83.0  # SCAFFOLD in its other run
    assert [cell.title for cell in NVFLARE.cells(1) if cell.algorithm != "FedAvg"] == [
        "alpha_0.1-FedProx",
        "alpha_0.1-SCAFFOLD",
        "alpha_0.1-FedOpt",
    ]
    assert (len(NVFLARE.cells(1)), len(FLOWER.cells(2))) == (7, 64)


@pytest.mark.parametrize(
    ("table", "cell", "size", "steps"),
    [
        (FLOWER, Cell("dirichlet", "skewed-SCAFFOLD", 0), FLOWER.full, 790),  # ten epochs of 5,000 images
        (NVFLARE, Cell("alpha_0.1", "SCAFFOLD", 0), NVFLARE.full, 392),  # four of 6,250
        (NVFLARE, Cell("alpha_0.1", "SCAFFOLD", 0), QUICK, 2),
        (FLOWER, Cell("dirichlet", "skewed", 0), FLOWER.full, 0),
    ],
)
def test_those_that_must_make_equally_many_steps_make_as_many_in_all(
    tmp_path: Path, table: Table, cell: Cell, size: Size, steps: int
) -> None:
    chosen = table.trial(cell, size, tmp_path, "cpu").settings
    assert chosen.get("train.local_steps", 0) == steps


def test_a_cell_of_nvflares_runs(tmp_path: Path) -> None:
    write_cifar10(tmp_path / BINARY_FOLDER, LABELS[:300])
    cell = Cell("alpha_0.1", "FedOpt", 0)
    call = ["nvflare", "--quick", "--data", str(tmp_path), "--runs", str(tmp_path), "--cells", cell.title]
    assert main(call) == 0
    made = json.loads((tmp_path / "published-nvflare-quick" / "published_nvflare.json").read_text())
    assert made[cell.name]["series"]["round"] == [1, 2]
    page = (tmp_path / "published-nvflare-quick" / "published_nvflare.md").read_text()
    assert "| FedOpt | published |  |  |  | 80.6 / 81.2 |" in page
    assert "| FedProx | here |  |  |  | – |" in page


def test_a_cell_runs_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar10(tmp_path / BINARY_FOLDER)
    call = ["flower", "--quick", "--data", str(tmp_path), "--runs", str(tmp_path)]
    folder, cell = tmp_path / "published-flower-quick", Cell("two_classes", "skewed", 0)
    monkeypatch.setenv("FLOCKSTEP_FAULTS", "kill@leader.collected:2")
    assert main([*call, "--cells", cell.title]) == 1
    monkeypatch.delenv("FLOCKSTEP_FAULTS")
    # A run that Ctrl-C stopped has a summary, too.
    (folder / cell.name / "summary.json").write_text('{"stopped": "stopped by SIGINT", "seconds": 1}')
    assert main([*call, "--cells"]) == 0
    assert rounds_done([cell], folder) == {cell: 1}
    assert f"- {cell.name}: 1 of 2 rounds so far" in (folder / "published_flower.md").read_text()
    assert main([*call, "--cells", cell.title]) == 0
    made = json.loads((folder / "published_flower.json").read_text())
    assert made[cell.name]["series"]["round"] == [1, 2]
    capsys.readouterr()
    assert main([*call, "--cells", cell.title]) == 0
    assert "1 of 1 runs are done already" in capsys.readouterr().out
    page = (folder / "published_flower.md").read_text()
    assert "| FedAvg | here | – | – | – | – |" in page
    assert "Runs that have ended: 1\n\n- two classes each, skewed, seed 0, 2 rounds: " in page
    # What has run elsewhere stays in the table.
    shutil.rmtree(folder / cell.name)
    (folder / f"{cell.name}.json").unlink()
    assert main([*call, "--cells"]) == 0
    assert (folder / "published_flower.md").read_text() == page


def test_a_cell_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flower", "--cells", "two_clases-*"]) != 0
    assert "no cell is called two_clases-*; there are iid-FedAvg," in capsys.readouterr().err
