"""What learners scored a model with, in the events that tests show."""

from leader.events import Spread

SPREAD = Spread(
    mean=0.5,
    unweighted_mean=0.45,
    variance=0.01,
    std=0.1,
    worst_decile=0.25,
    min=0.25,
    max=0.75,
    learners=8,
    examples=400,
)
