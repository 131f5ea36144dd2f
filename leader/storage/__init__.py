"""What a run leaves on disk: checkpoints and the run folder."""
