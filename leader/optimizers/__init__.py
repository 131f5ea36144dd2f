"""Server optimizers as values: `init` makes the state, `apply` turns a mean update into new weights."""
