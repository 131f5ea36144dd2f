"""The kinds of exchange behind one Protocol: synchronous, pipelined, buffered, and scores alone."""
