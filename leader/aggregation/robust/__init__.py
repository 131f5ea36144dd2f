"""Rules that combine updates of which some are malicious, in memory that does not grow with their number."""

from leader.aggregation.robust.aggregate import open_robust

__all__ = ["open_robust"]
