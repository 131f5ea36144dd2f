"""Write real data that scikit-learn brings along as the folders that the examples train on.

    python -m examples.make_data digits DIR     # handwritten digits, as CSV: 64 pixels, then the digit
    python -m examples.make_data photos DIR     # the same digits, as PNG files in class folders
    python -m examples.make_data tumours DIR    # 30 measurements of breast tumours, then 1 if malignant

A fifth is for testing (DIR/test.csv or DIR/test/CLASS/), the rest is dealt out to `--parts` learners
(DIR/part-1/train.csv or DIR/train/part-1/CLASS/). The same files come out every time.

Sources: "Optical Recognition of Handwritten Digits" and "Breast Cancer Wisconsin (Diagnostic)" of the UCI
repository, in the copies of scikit-learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_breast_cancer, load_digits

Rows = NDArray[np.float64]  # (N, columns + 1): the features, then the label


def load(kind: str) -> Rows:
    """All rows in a fixed shuffled order."""
    bunch: Any = load_breast_cancer() if kind == "tumours" else load_digits()
    # scikit-learn counts malignant as 0; the thing to be found should be 1.
    label = 1 - bunch.target if kind == "tumours" else bunch.target
    rows: Rows = np.column_stack((bunch.data, label))
    shuffled: Rows = rows[np.argsort(np.random.PCG64(0).random_raw(len(rows)))]
    return shuffled


def write_table(rows: Rows, path: Path) -> None:
    """One row a line, without a heading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, rows, fmt="%.8g", delimiter=",")


def write_photos(rows: Rows, folder: Path) -> None:
    """One grey image of 8 x 8 pixels a row, in the folder of its class."""
    for number, row in enumerate(rows):
        path = folder / f"{row[-1]:.0f}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((row[:-1].reshape(8, 8) * 15).astype(np.uint8)).save(path)


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description="Write the data of the examples.")
    parser.add_argument("kind", choices=("digits", "photos", "tumours"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=int, default=2, help="learners that the data is for")
    options = parser.parse_args()

    rows = load(options.kind)
    test, train = np.split(rows, [len(rows) // 5])
    parts = {f"part-{i + 1}": part for i, part in enumerate(np.array_split(train, options.parts))}
    folder: Path = options.folder
    if options.kind == "photos":
        write_photos(test, folder / "test")
        for name, part in parts.items():
            write_photos(part, folder / "train" / name)
    else:
        write_table(test, folder / "test.csv")
        for name, part in parts.items():
            write_table(part, folder / name / "train.csv")
    print(f"{folder}: {len(test)} examples for testing, {[len(part) for part in parts.values()]} to train on")


if __name__ == "__main__":
    main()
