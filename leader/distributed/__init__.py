"""Aggregation on many machines: edges take uploads and add them up, the leader counts receipts and merges the sums."""
