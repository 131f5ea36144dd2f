"""Secure aggregation at the learner: its part in sessions, the vow that it keeps, and the key of its noise."""
