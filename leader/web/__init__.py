"""The face of a run for browsers and Prometheus: read-only, in a thread of its own that no round waits for."""
