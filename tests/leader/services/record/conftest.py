"""Records of these tests wait for a disk and for services as long as these take."""

from __future__ import annotations

import pytest

from leader.services.record import writer


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked to be written or sent has been when that is waited for, however busy the machine is."""
    for name in ("_SETTLE_S", "_CLOSE_S", "_LAST_ROWS_S"):
        monkeypatch.setattr(writer, name, 60.0)
