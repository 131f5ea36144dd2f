"""What tests of clusters share: identities among the files of the test, JWTs that its leader takes, its clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from leader.runtime import Host
from tests.tools.clock import TurnedClock
from tests.tools.oidc import jwk_of, jwks_of, signed, signing_key


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where identities are."""
    monkeypatch.setenv("FLOCKSTEP_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "identities"


@pytest.fixture
def token(tmp_path: Path) -> Callable[..., str]:
    """Signs JWTs that count in a run with `trust.jwt_jwks` jwks.json: a learner's, unless they say otherwise."""
    key = signing_key("ES256")
    (tmp_path / "jwks.json").write_bytes(jwks_of(jwk_of(key)))
    return partial(signed, key, flockstep_role="learner")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> TurnedClock:
    """The clock of the leader that the test starts, by which its rounds have their time."""
    clock = TurnedClock()
    monkeypatch.setattr("leader.wiring.Host", lambda: Host(clock))
    return clock
