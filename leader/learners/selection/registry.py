"""Which policy a run has asked for."""

from __future__ import annotations

from leader.config import CohortConfig
from leader.learners.selection.base import Policy
from leader.learners.selection.by_examples import ByExamples
from leader.learners.selection.oort import Oort
from leader.learners.selection.power_of_choice import PowerOfChoice
from leader.learners.selection.round_robin import RoundRobin
from leader.learners.selection.uniform import Uniform


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
