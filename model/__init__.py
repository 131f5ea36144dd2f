"""What is trained: a task, networks by name, seeded weights, and the flat vector that parameters live in."""
