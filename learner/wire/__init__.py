"""Transfers between this learner and the leader, and the updates that travel."""
