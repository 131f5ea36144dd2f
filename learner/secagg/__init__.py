"""Secure aggregation at the learner: its part in sessions, and the vow that it keeps."""
