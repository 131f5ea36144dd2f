"""The sections of a run's configuration, each checked alone."""
