"""What all tests share: hypothesis without a clock, curves undrawn, a root logger, and the real CIFAR-10."""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A deadline would measure how busy the machine is, and so does what hypothesis takes for slow drawing.
settings.register_profile("flockstep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("flockstep")

ROOT = Path(__file__).parents[1]
UNPACK = ROOT.parent / "shared" / "cifar10" / "unpack.py"


@pytest.fixture(autouse=True, scope="session")
def no_identities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Learners find none of the identities that this machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOCKSTEP_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True, scope="session")
def sketched_curves() -> Iterator[None]:
    """Leaders in this process leave their curves undrawn."""
    with pytest.MonkeyPatch.context() as patch:
        if app := sys.modules.get("leader.app"):
            from tests.tools.sketch import sketch_curves

            patch.setattr(app, "draw_curves", sketch_curves)
        yield


@pytest.fixture
def root_logger() -> Iterator[None]:
    """The root logger without handlers; what a test gives it is gone afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A learner that starts again has its name as soon as the connection of the one that had it is broken.

    Where nobody else wants it, whom it is kept for is no matter.
    """
    monkeypatch.setattr("leader.learners.membership._GRACE_S", 0.0)


@pytest.fixture(scope="session")
def real_cifar10() -> Path:
    """The folder cifar-10-batches-bin/ with all 60,000 images; unpacked once, then kept beside pytest's cache.

    Of several at a time, one unpacks and the others wait for it.
    """
    if not UNPACK.is_file():
        pytest.skip(f"no real CIFAR-10: {UNPACK} is missing")
    cache = ROOT / ".pytest_cache" / "flockstep"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run([sys.executable, str(UNPACK), str(cache)], check=True, capture_output=True)
    return cache / "cifar-10-batches-bin"
