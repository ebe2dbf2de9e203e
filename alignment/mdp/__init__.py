"""The token MDP, trajectories and packed batches."""
