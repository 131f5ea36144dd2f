"""What sieges came to: a file of all figures, a table for people, and the table in docs/reliability.md."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.attacks.siege import MIB, Attack, Borne

RESULTS = "siege.json"
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_HEADS = ("attack", "bound", "unary call", "download", "upload", "leader", "run", "bits")
_WORST = ("unary_s", "download_s", "upload_s", "grown_bytes")
Found = Mapping[str, Mapping[str, Mapping[str, Any]]]  # by attack, then mode: the figures, see `figures`


def figures(borne: Borne, quiet: Borne, seconds: float) -> dict[str, Any]:
    """What one siege is remembered by; infinite where something never came."""
    return {
        **asdict(borne),
        "seconds": seconds,
        "run_ratio": borne.run_s / quiet.run_s,
        "quiet": asdict(quiet),
        "missed": borne.missed(quiet),
    }


def load(folder: Path) -> dict[str, Any]:
    """The results that are in this folder so far."""
    path = folder / RESULTS
    found: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {"attacks": {}}
    return found


def store(folder: Path, results: Mapping[str, Any]) -> None:
    """Write the results, so that a run that is stopped leaves what it has measured."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / RESULTS).write_text(json.dumps(_rounded(results), indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def shown(attacks: tuple[Attack, ...], found: Found) -> Table:
    """The table for a terminal, with what was missed."""
    table = Table(*_HEADS, "missed")
    for attack in attacks:
        of = found.get(attack.name, {})
        if of:
            missed = "; ".join(f"{mode}: {what}" for mode, one in of.items() for what in one["missed"])
            table.add_row(attack.name, *_cells(attack, of), missed or "nothing")
    return table


def markdown(attacks: tuple[Attack, ...], found: Found) -> str:
    """The table for docs/reliability.md."""
    lines = [_line(_HEADS), _line(["---"] * 2 + ["---:"] * 5 + ["---"])]
    lines += [_line(["nothing", "", *_undisturbed(found)])]
    lines += [_line([attack.says, *_cells(attack, found.get(attack.name, {}))]) for attack in attacks]
    return "\n".join(lines)


def _undisturbed(found: Found) -> list[str]:
    """What the runs bore that the others are compared with: the slowest of all of a mode."""
    quiet: dict[str, list[Mapping[str, Any]]] = {}
    for of in found.values():
        for mode, one in of.items():
            quiet.setdefault(mode, []).append({**one["quiet"], "quiet": one["quiet"], "run_ratio": 1.0})
    worst = [{**runs[0], **{key: max(run[key] for run in runs) for key in _WORST}} for runs in quiet.values()]
    return [" / ".join(column) for column in zip(*(_figures(one) for one in worst), strict=True)]


def publish(table: str, page: Path = PAGE, mark: str = "siege") -> None:
    """Put the table into the page, in the place of the one before, between two marks."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(attack: Attack, of: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """All but the attack itself; the modes behind each other."""
    if not of:
        return [attack.bound, *["–"] * 5, f"`tests/{attack.test}`"]
    columns = zip(*(_figures(one) for one in of.values()), strict=True)
    return [attack.bound, *(" / ".join(column) for column in columns)]


def _figures(one: Mapping[str, Any]) -> Iterator[str]:
    quiet = one["quiet"]
    yield _seconds(one["unary_s"])
    yield _seconds(one["download_s"])
    yield _seconds(one["upload_s"])
    yield f"{one['grown_bytes'] / MIB:+.0f} MiB"
    yield f"x {one['run_ratio']:.2f}"
    same = one["sha256"] == quiet["sha256"] != ""
    yield "same" if same else "other" if one["sha256"] else f"not over after {one['run_s']:.0f} s"


def _seconds(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.2f} s"
