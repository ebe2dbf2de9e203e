"""Reward functions, and the evaluation of reward models."""
