"""The commands: each job from start to end."""
