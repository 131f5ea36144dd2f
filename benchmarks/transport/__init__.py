"""What the wire costs, beside bare loops and sockets: `transport`, and the probes that count bytes."""
