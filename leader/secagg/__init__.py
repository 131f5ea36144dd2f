"""Secure aggregation at the leader: sessions, the masked sum, and what takes its masks off."""
