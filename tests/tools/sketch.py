"""The curves of runs in tests: matplotlib takes longer to draw them than most of these runs take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leader.reporting.curves import curves_figure
from leader.storage.metrics_log import Record
from utils.files import replace_file


def sketch_curves(records: Sequence[Record], path: Path, title: str) -> None:
    """`draw_curves`, which writes nothing: the figure is made of the run's records, and left undrawn.

    All kinds of them are drawn in tests/leader/reporting/test_curves.py.
    """
    curves_figure(records, title)
    replace_file(path, b"")
