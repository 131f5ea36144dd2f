"""One learner's local training."""
