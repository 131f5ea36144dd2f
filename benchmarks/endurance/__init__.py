"""Memory, many sessions, long runs, floods: `leader_memory`, `robust_memory`, `sessions`, `soak`, `trust`."""
