"""Federated algorithms at the learner: each a value that says what it changes in plain local SGD."""
