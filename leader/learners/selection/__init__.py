"""Who takes part in a round: one policy a file, all of them functions of the seed, the round and the history."""
