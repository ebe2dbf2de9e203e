"""Training of one rank of a reward model."""
