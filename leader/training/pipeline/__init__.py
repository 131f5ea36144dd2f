"""Steps exchanged piece by piece, so that both ways of the wire and the sum overlap."""
