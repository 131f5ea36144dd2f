"""The image of edges has what they load, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions, requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.integration.harness import ROOT

_EDGE = ROOT / "deploy" / "edge.txt"
#: Prints the packages that the programs of such an image have loaded.
_LOADED = """
import json, pkgutil, sys, leader.aggregator.__main__, leader.edge, scripts.command
for module in pkgutil.iter_modules(leader.edge.__path__, "leader.edge."):
    __import__(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def needed(names: set[str]) -> set[str]:
    """Distributions of these names, and all that they need here."""
    found: set[str] = set()
    while names:
        found |= names
        asked = (Requirement(line) for name in names for line in requires(name) or ())
        here: set[str] = {
            canonicalize_name(one.name) for one in asked if one.marker is None or one.marker.evaluate()
        }
        names = here - found
    return found


def test_it_has_all_that_edges_and_aggregators_load_and_no_torch() -> None:
    asked = [Requirement(line) for line in _EDGE.read_text().splitlines() if not line.startswith("#")]
    whole = [Requirement(line) for line in requires("flockstep") or ()]
    assert all(one in whole for one in asked)  # the same versions as the wheel asks for
    there = needed({canonicalize_name(one.name) for one in asked}) | {"flockstep"}
    assert "torch" not in there
    assert "matplotlib" not in there
    told = subprocess.run([sys.executable, "-c", _LOADED], cwd=ROOT, capture_output=True, check=True).stdout
    brought = packages_distributions()
    loaded = {name: brought[name] for name in json.loads(told) if name in brought}
    assert "numpy" in loaded
    missing = {name: by for name, by in loaded.items() if not there & {canonicalize_name(one) for one in by}}
    # gRPC imports its tools where they are; what else is here is how this project was installed.
    assert {name for name in missing if not name.startswith("_")} <= {"grpc_tools"}
