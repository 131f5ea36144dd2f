"""What leader and learner both need on the wire: the table of RPCs, payloads, framing, gRPC options, status codes."""
