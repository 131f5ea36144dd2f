"""The log of updates: edges write them into Kafka, and the sums are made of what stands there, exactly and again."""
