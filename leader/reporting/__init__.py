"""What people read of a run: subscribers of its events, none of which the training path knows."""
