"""Measured figures, each beside a reference from the same run: `python -m benchmarks`."""
