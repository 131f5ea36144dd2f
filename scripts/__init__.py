"""Programs around a run, started with `python -m scripts.NAME`."""
