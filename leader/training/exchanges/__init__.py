"""The kinds of exchange behind one Protocol: synchronous, pipelined, buffered, masked, and scores alone."""
