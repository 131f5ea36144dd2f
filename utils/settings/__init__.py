"""Settings: typed schema, keys, scalars, flags and spelling."""
