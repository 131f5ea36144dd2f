"""What the global model is worth: on the test split, at the learners, the best one, and when to stop."""
