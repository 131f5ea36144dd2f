"""This learner's identity: how it joins, how it is kept, and the channel that it opens with it."""
