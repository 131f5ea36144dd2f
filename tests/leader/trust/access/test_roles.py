"""What the table of roles must never let happen, whatever rows it gets."""

from __future__ import annotations

import pytest

from leader.trust.access.roles import TABLE, check
from leader.trust.identities.callers import DOOR, PLAIN, Caller
from utils.errors import ForbiddenError
from utils.trust import contract as trust
from utils.trust.names import LEADER, ROLES
from utils.wire import contract


def may(role: str) -> set[str]:
    """Names of all methods that a role may call."""
    return {method.rpartition("/")[2] for method, roles in TABLE.items() if role in roles}


def test_who_has_no_identity_may_enrol_or_speak_the_plain_contract() -> None:
    assert may(DOOR) == {"Enrol"}
    assert may(PLAIN) == {"RegisterLearner", "GetData", "GetModel", "AccumulateGradients"}


def test_only_operators_and_admins_manage_identities() -> None:
    managing = {
        method.name
        for method in vars(trust).values()
        if isinstance(method, contract.Method) and method.name not in ("Enrol", "Renew", "WhoAmI")
    }
    assert len(managing) == 7
    for role in (*ROLES, LEADER, DOOR, PLAIN, ""):
        assert may(role) & managing == (managing if role in ("operator", "admin") else set())


def test_whoever_does_not_train_sends_no_updates() -> None:
    for role in set(ROLES) - {"learner", "aggregator"}:
        assert not may(role) & {
            "RegisterLearner",
            "Session",
            "AccumulateGradients",
            "ExchangeGradients",
            "GetWork",
        }


def test_gateway_and_leader_may_do_nothing_themselves() -> None:
    assert may("gateway") == may(LEADER) == may("") == set()


@pytest.mark.parametrize("method", ["/leader.LeaderService/Shutdown", "GetModel", ""])
def test_a_method_without_a_row_is_refused_to_everybody(method: str) -> None:
    with pytest.raises(ForbiddenError, match=r"root \(admin\) may not call "):
        check(Caller("root", "admin", "", "root"), method)
