"""Which policy a run has asked for."""

from __future__ import annotations

from leader.config import CohortConfig
from leader.selection.base import Policy
from leader.selection.by_examples import ByExamples
from leader.selection.oort import Oort
from leader.selection.power_of_choice import PowerOfChoice
from leader.selection.round_robin import RoundRobin
from leader.selection.uniform import Uniform


def make_policy(config: CohortConfig) -> Policy:
    """The policy of cohort.policy."""
    match config.policy:
        case "uniform":
            return Uniform()
        case "by_examples":
            return ByExamples()
        case "round_robin":
            return RoundRobin()
        case "power_of_choice":
            return PowerOfChoice(config.candidates)
        case "oort":
            return Oort()
