"""The tree of machines that take updates: its RPCs, tickets and seals, and the hub that knows the edges below."""
