"""Reward functions, and how good a reward model is."""
