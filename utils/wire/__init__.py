"""What leader and learner both need on the wire: payloads, framing, RPC options, status codes."""
