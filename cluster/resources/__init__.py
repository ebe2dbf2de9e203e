"""What a worker needs, and what a machine or cluster has."""
