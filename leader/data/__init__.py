"""The leader's data: what it holds, how it is split into shards, and how a shard travels."""
