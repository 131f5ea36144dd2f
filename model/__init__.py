"""Models by name, and the flat vector that their parameters live in."""
