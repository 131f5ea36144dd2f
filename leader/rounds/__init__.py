"""The round machines: events in, actions out; no sockets, no clock, no tensors."""
