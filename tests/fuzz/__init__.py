"""Mutated inputs for every payload kind and every RPC; `make test` runs a short form, `make fuzz` a long one."""
