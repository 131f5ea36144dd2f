"""The training loop: cohort, plan, collect, aggregate, step, commit."""
