"""RPCs in, calls of the domain, answers out."""
