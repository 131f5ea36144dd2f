"""Simulations: `simulation`, and Flower's beside it."""
