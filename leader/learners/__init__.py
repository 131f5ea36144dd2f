"""The learners: who is registered, who holds which part, how each is reached."""
