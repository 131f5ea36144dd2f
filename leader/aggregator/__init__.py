"""The aggregator (`python -m leader.aggregator`): one of a group that sums what edges write into Kafka."""
