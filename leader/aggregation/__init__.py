"""The exact aggregate: integer sums that do not depend on arrival order."""
