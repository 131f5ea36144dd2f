"""This learner's access to the leader: what it proves itself with, and the channels that it opens with that."""
