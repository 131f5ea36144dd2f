"""Chaos: a real training under random faults must lose nothing and end in the undisturbed run's bits."""
