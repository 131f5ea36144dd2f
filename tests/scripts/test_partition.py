from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from leader.data.partition import partition
from scripts.partition import main, parse, split, table
from scripts.partition_plot import Panel, draw_split
from utils.datasets import Dataset, open_dataset, save_dataset
from utils.errors import ConfigError

LABELS = np.repeat(np.array([2, 0, 1, 1], np.int64), 15)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A data set of 60 examples; each image tells its own number."""
    images = np.zeros((60, 3, 2, 2), np.uint8) + np.arange(60, dtype=np.uint8)[:, None, None, None]
    save_dataset(Dataset("sixty", images, LABELS, ("a", "b", "_c$")), tmp_path / "all.safetensors")
    return tmp_path / "all.safetensors"


def run(source: Path, *flags: str) -> int:
    return main(["--data", str(source), "--plot", str(source.with_name("p.png")), *flags])


def shown(source: Path, *flags: str) -> str:
    """The table, as text."""
    options = parse(["--data", str(source), *flags])
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(table(split(options, open_dataset(options.data, options.data_dir).train)[0]))
    return console.export_text()


def test_parts_are_those_that_a_leader_makes_and_a_learner_opens(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.parent / "deep" / "parts"
    assert run(source, "--kind", "dirichlet", "--alpha", "0.3", "--parts", "4", "--out", str(out)) == 0
    summary = json.loads((out / "partition.json").read_text())
    expected = partition(LABELS, 4, kind="dirichlet", alpha=0.3, seed=0)
    for number, indices in enumerate(expected):
        path = out / f"part-{number:05}.safetensors"
        part = open_dataset(str(path), out).train
        assert part.images[:, 0, 0, 0].tolist() == indices.tolist()
        assert part.labels.tolist() == LABELS[indices].tolist()
        assert part.classes == ("a", "b", "_c$")
        assert summary["counts"][number] == np.bincount(LABELS[indices], minlength=3).tolist()
        assert summary["sha256"][path.name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (summary["dataset"], summary["kind"], summary["alpha"], summary["seed"]) == (
        *("sixty", "dirichlet"),
        *(0.3, 0),
    )
    assert sorted(path.name for path in out.parent.iterdir()) == ["parts"]
    assert "sixty in 4 parts: dirichlet, alpha 0.3, seed 0" in capsys.readouterr().out


def test_a_folder_with_something_in_it_is_left_alone(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = source.parent / "parts"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert run(source, "--out", str(out)) == 2
    assert capsys.readouterr().err == (
        f"error: --out {out} is there already and is not an empty folder; choose another\n"
    )
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert not source.with_name("p.png").exists()


def test_an_empty_folder_is_filled(source: Path) -> None:
    (source.parent / "parts").mkdir()
    assert run(source, "--parts", "2", "--out", str(source.parent / "parts")) == 0
    assert len(list((source.parent / "parts").glob("part-*.safetensors"))) == 2


def test_the_table_tells_size_and_classes_of_each_part(source: Path) -> None:
    lines = shown(source, "--kind", "classes", "--parts", "2", "--classes-per-shard", "1").splitlines()
    rows = sorted(line.split("│")[2:6] for line in lines if line.startswith("│"))
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["30", "2", "50.0%", "a"],
        ["30", "2", "50.0%", "b"],
    ]


def test_many_parts_are_summed_up(source: Path) -> None:
    text = shown(source, "--kind", "iid", "--parts", "24")
    row = next(line for line in text.splitlines() if "examples" in line)
    assert [cell.strip() for cell in row.split("│")[1:5]] == ["examples", "2", "2.5", "3"]
    assert "classes present" in text


def test_groups_are_rows_by_name(tmp_path: Path) -> None:
    for group, kind, count in (("north", "a", 3), ("south", "a", 1), ("south", "[b]", 2)):
        (tmp_path / group / kind).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8)).save(tmp_path / group / kind / f"{i}.png")
    text = shown(tmp_path, "--kind", "groups")
    assert [line.split()[1:8:2] for line in text.splitlines() if line.startswith("│")] == [
        ["north", "3", "1", "100.0%"],
        ["south", "3", "2", "66.7%"],
    ]
    assert "[b]" in text


def test_several_alphas_are_side_by_side_in_one_picture(source: Path) -> None:
    sizes = []
    for alphas in (["0.1"], ["0.1", "100"]):
        assert run(source, "--kind", "quantity", "--alpha", *alphas) == 0
        with Image.open(source.with_name("p.png")) as image:
            sizes.append(image.size)
    assert sizes[1][0] > 1.5 * sizes[0][0]
    assert sizes[1][1] == sizes[0][1]


@pytest.mark.parametrize("parts", [1, 40, 41, 3_000])
@pytest.mark.parametrize(
    ("classes", "first", "last"),
    [
        (2, (31, 119, 180), (255, 127, 14)),
        (14, (31, 119, 180), (247, 182, 210)),
        (60, (48, 18, 59), (122, 4, 3)),
    ],
)
def test_the_picture_gives_each_class_its_area_in_its_colour(
    parts: int, classes: int, first: tuple[int, int, int], last: tuple[int, int, int]
) -> None:
    counts = np.zeros((parts, classes), np.int64)
    counts[:, 0], counts[:, -1] = 3, 1
    names = [f"class {i} with a name that goes on for longer than there is room" for i in range(classes)]
    png = draw_split([Panel("quarters", counts)], names, "heading " * 40)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    areas = [np.count_nonzero((pixels == colour).all(axis=2)) for colour in (first, last)]
    assert areas[1] > 5_000
    assert areas[0] / areas[1] == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind", "groops"], "--kind: invalid choice: 'groops'"),
        (["--parts", "0"], "--parts: '0' is no whole number from 1 to 1000000"),
        (["--parts", "9" * 5_000], "is no whole number"),
        (["--alpha", "nan"], "--alpha: 'nan' is no number above 0"),
        (["--seed", "-1"], "--seed: "),
        (["--apha", "1"], "--apha: unknown flag; did you mean --alpha?"),
        (["--kind", "dirichlet", "--alpha", "1", "2", "--out", "x"], "--out: parts of several --alpha"),
        (["--alpha", "1", "2"], "--alpha: iid does not depend on it"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(flags)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_what_can_not_be_split_or_written_is_one_line_too(
    source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, "--parts", "61") == 2
    assert run(source, "--kind", "groups") == 2
    assert run(source, "--parts", "2", "--out", str(source / "below")) == 2
    assert run(source, "--parts", "2", "--plot", str(source / "p.png")) == 2
    assert main(["--data", str(source.with_name("none"))]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["error"] * 5
    assert lines[2].endswith(f"can't be written: {source}: File exists")
    assert lines[3].endswith("can't be written: Not a directory")
