"""Flower's NIID baseline on CIFAR-10: its set-up, what it published, and what is run here beside it."""

from __future__ import annotations

from functools import partial

from benchmarks.outcome.niid_parts import PARTS, niid_split
from benchmarks.outcome.published_table import Column, Published, Size, Table, Words
from leader.config.recipes import RECIPES
from leader.data.partition import Kind

#: Where the set-up and the figures are from; and an older revision of the page, with figures of one seed.
SOURCE = "https://github.com/adap/flower/tree/b6179b648549ad8fd0bb270dc6602c3e054cc2be/baselines/niid_bench"
OLDER = "https://github.com/adap/flower/blob/1599d01c2f76a4139abe231b7e294f828ba62048/baselines/niid_bench/README.md"

PEERS = ("FedAvg", "SCAFFOLD", "FedProx", "FedNova")

_Figures = tuple[float, float, float, float]  # of each of PEERS


def _column(
    title: str, kind: Kind, classes: int | None, means: _Figures, deviations: _Figures, older: _Figures
) -> Column:
    figures = map(Published, means, deviations, older)
    return Column(
        title, partial(niid_split, kind=kind, classes=classes), dict(zip(PEERS, figures, strict=True))
    )


_IID = ((71.32, 71.66, 71.26, 70.69), (0.33, 1.13, 1.18, 1.14), (71.7, 70.7, 70.6, 71.1))
_DIRICHLET = ((62.47, 68.08, 65.63, 63.89), (0.43, 0.96, 0.08, 1.40), (63.4, 68.0, 65.6, 65.0))
_TWO = ((51.17, 49.42, 50.44, 46.90), (1.09, 2.18, 0.79, 0.66), (49.9, 48.9, 50.0, 46.4))
_THREE = ((59.11, 61.00, 59.20, 57.83), (0.87, 0.91, 1.18, 0.42), (58.1, 60.0, 60.0, 57.7))

_SCAFFOLD = {"train.control_variates": True}
_AVERAGED = {"server.average": 0.4}

FLOWER = Table(
    name="flower",
    words=Words(
        title="Flower's NIID baseline",
        source=f"[Flower's baseline]({SOURCE})",
        network="a CNN of 62,006 parameters",
        steps="batch 64, SGD of rate 0.01, momentum 0.9 and weight decay 1e-5, crop and flip; "
        "parts are drawn by the baseline's own numbers",
        figures=f"mean ± deviation, and with a slash that of an [older revision]({OLDER})",
        notes=(
            "Not as in the baseline: an epoch is cut into batches of even size, in place of a small last one, and "
            "initial weights and order are drawn by other generators. Published FedProx is the best of four `mu`, "
            "here it has one. Published SCAFFOLD adds its correction beside the momentum, and takes 1 / (K lr) of what "
            "a learner moved for its gradient; here the correction goes through the momentum, and what a learner moved "
            "is divided by how far its steps carry a gradient. Its learners all make the steps of an even share, as "
            "many in all as ten epochs.",
        ),
        flags="`--cells two_classes-FedAvg` runs one cell, `--quick` takes a minute",
    ),
    peers=PEERS,
    columns={
        "iid": _column("IID", "iid", None, *_IID),
        "dirichlet": _column("Dirichlet 0.5", "dirichlet", None, *_DIRICHLET),
        "two_classes": _column("two classes each", "classes", 2, *_TWO),
        "three_classes": _column("three classes each", "classes", 3, *_THREE),
    },
    algorithms={
        "FedAvg": {},
        "SCAFFOLD": _SCAFFOLD,
        "FedProx": {"train.proximal_mu": 0.01},
        "FedNova": {"aggregate.weighting": "fednova"},
        "averaged": _AVERAGED,
        "SCAFFOLD-averaged": {**_SCAFFOLD, **_AVERAGED},
        "skewed": RECIPES["skewed"],
        "skewed-SCAFFOLD": {**_SCAFFOLD, **RECIPES["skewed"]},
    },
    learners=PARTS,
    images=50_000,
    batch_size=64,
    full=Size(rounds=50, epochs=10, examples=0),
    training={
        "model.task": "benchmarks.outcome.niid_task:Niid",
        "train.lr": 0.01,
        "train.schedule": "constant",
        "train.momentum": 0.9,
        "train.nesterov": False,
        "train.weight_decay": 1e-5,
    },
)
