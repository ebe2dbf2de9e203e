"""The rollout worker and its inference engine."""
