"""The reward, advantage and weight of each action."""
