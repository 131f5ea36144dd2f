"""NVFlare's CIFAR-10 examples: their set-up, what they published, and what is run here beside it."""

from __future__ import annotations

from functools import partial

from benchmarks.outcome.niid_parts import NVFLARE_PARTS, nvflare_split
from benchmarks.outcome.published_table import Column, Published, Size, Table, Words

#: Set-up: src/model.py, src/data/cifar10_data_split.py and cifar10_data_utils.py, cifar10-sim/cifar10_*/client.py and
#: job.py. Figures: section 4 of cifar10-sim/README.md, as the highest of the rounds (figs/plot_tensorboard_events.py).
SOURCE = "https://github.com/NVIDIA/NVFlare/tree/60c917a5724f04e79316ffeec544c069a8a00824/examples/advanced/cifar10/pt"

PEERS = ("FedAvg", "FedProx", "FedOpt", "SCAFFOLD")


def _column(alpha: float, **published: Published) -> Column:
    return Column(f"Dirichlet {alpha}", partial(nvflare_split, alpha=alpha), published)


NVFLARE = Table(
    name="nvflare",
    words=Words(
        title="NVFlare's CIFAR-10 examples",
        source=f"[NVFlare's README]({SOURCE}/cifar10-sim)",
        network="a CNN of 3,491,530 parameters with dropout",
        steps="batch 64, SGD of rate 0.05 that falls by a cosine and momentum 0.9, crop and flip; parts and initial "
        "weights are drawn by the examples' own numbers",
        figures="one run, and with a slash another, which the README in each example's own folder tells of; blank "
        "where there is none",
        notes=(
            "Not as in the examples: the rate falls to 0 step by step, theirs to 1 % epoch by epoch; momentum starts "
            "at 0 in every round, theirs goes on; parts weigh by their examples, theirs by their steps; the pixels' "
            "mean and deviation are rounded otherwise; an epoch is cut into batches of even size, in place of a small "
            "last one; order, crops and dropout are drawn by other generators. The server's rate of FedOpt stays 1, "
            "theirs falls to 0.9. They call their figures final scores, but their script prints the highest of the "
            "rounds, and as a round begins, so that the last round's model is not among them. SCAFFOLD's learners "
            "all make the steps of an even share here, and its correction goes through the momentum; theirs count in "
            "epochs and correct beside it. The recipe `skewed` has no row: it is the course of the rate that all of "
            "these have.",
            "A cell is 10,000,000 images through the network, which is 13 hours of a CPU core at the 220 images a "
            "second that were measured of one (AMD EPYC, float32, OMP_NUM_THREADS=1, busy with other programs too). "
            "So cells without a figure wait for a GPU (`--device cuda`); these runs have not been tried on one.",
        ),
        flags="`--cells alpha_0.1-FedAvg` runs one cell, and with `--quick` in a minute",
    ),
    peers=PEERS,
    columns={
        "alpha_1.0": _column(1.0, FedAvg=Published(89.11, other=89.4)),
        "alpha_0.5": _column(0.5, FedAvg=Published(87.87, other=88.5)),
        "alpha_0.3": _column(0.3, FedAvg=Published(85.27, other=85.1)),
        "alpha_0.1": _column(
            0.1,
            FedAvg=Published(80.45, other=80.7),
            FedProx=Published(80.59, other=80.5),
            FedOpt=Published(80.58, other=81.2),
            SCAFFOLD=Published(82.60, other=83.0),
        ),
    },
    algorithms={
        "FedAvg": {},
        "FedProx": {"train.proximal_mu": 1e-5},
        "SCAFFOLD": {"train.control_variates": True},
        "FedOpt": {"server.optimizer": "fedavgm", "server.momentum": 0.6, "server.lr": 1.0},
    },
    learners=NVFLARE_PARTS,
    images=50_000,
    batch_size=64,
    full=Size(rounds=50, epochs=4, examples=0),
    training={
        "model.task": "benchmarks.outcome.nvflare_task:ModerateCnn",
        "train.lr": 0.05,
        "train.schedule": "cosine",
        "train.warmup": 0.0,
        "train.momentum": 0.9,
        "train.nesterov": False,
        "train.weight_decay": 0.0,
    },
)
