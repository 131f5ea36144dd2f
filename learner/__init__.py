"""The learner: trains on one shard and streams its updates to the leader."""
