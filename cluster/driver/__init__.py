"""The training loop of one run, and the actor around it."""
