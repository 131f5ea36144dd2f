"""The audit: a signed chain of lines, its check, and what a run writes into it."""
