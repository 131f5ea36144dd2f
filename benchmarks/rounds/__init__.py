"""Whole rounds of a fleet: `idle_round`, `resnet18_round`, `watched_round`, `edges`, `kafka`."""
