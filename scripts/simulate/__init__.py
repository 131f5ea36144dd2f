"""Simulation: a whole run in one process, with virtual learners and virtual time."""
