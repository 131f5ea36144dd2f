"""Who takes part in a round: the policies, all of them functions of the seed, the round and the history."""
