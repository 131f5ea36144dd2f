"""The arithmetic of differential privacy: updates on a lattice, noise for their sum, and what that promises."""
