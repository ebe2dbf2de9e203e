"""Training objectives: one file, one function each. None imports another."""
