"""Services around a run: its record on disk, what follows that, and where its models go."""
